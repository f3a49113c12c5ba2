-- put_aside: the record that a run is left with; goes on from aside.lua.
local function number(value, otherwise) return type(value) == 'number' and value or otherwise end
local function word(value, otherwise) return type(value) == 'string' and value or otherwise end

-- What can be known of a run from a record of which nothing is certain.
local function remains(id, raw)
  local known, old = pcall(unpack_one, raw or '')
  if not known or type(old) ~= 'table' then old = {} end
  return {
    id = id, d = word(old.d, ''), W = word(old.W, '?'), N = number(old.N, 0), R = number(old.R, 1), S = number(old.S, NOW),
    s = FAILED, c = 'corrupt', st = 'corrupt', E = NOW, B = number(old.B), ky = word(old.ky), v = number(old.v),
    l = 0, li = {}, pa = 0, nx = number(old.nx, 0), g = RELEASED,
  }, word(old.ck), old.h
end

-- A key of another kind than ours: kept under another name.
local function move_strange(name)
  local kind = call('TYPE', P .. name).ok
  if kind ~= 'hash' and kind ~= 'none' then call('RENAME', P .. name, P .. 'corrupt:' .. name) end
end

function M.put_aside(id, why)
  forget(id)
  local known, before = pcall(M.look_at, id)
  if known and M.is_aside(before) then return end
  M.runs[id] = nil
  local key = P .. 'run:' .. id
  move_strange('run:' .. id)
  move_strange('tasks:' .. id)
  local found = call('HMGET', key, 'r', 's')
  if not found[1] and call('EXISTS', P .. 'tasks:' .. id) == 0 then return M.spoil(id, found[2], why) end
  call('HDEL', P .. 'tasks:' .. id, 'h')
  local run, ckey, held = remains(id, found[1])
  call('HSET', key, 'corrupt', found[1] or '')
  pcall(end_tasks, id)
  M.runs[id] = run
  M.touch_run(run)
  call('ZREM', P .. 'due' .. M.mark(run.v), 'r' .. id)
  call('ZREM', P .. 'deadlines' .. M.mark(run.v), id)
  call('RPUSH', P .. 'ended', id .. string.format(' %.0f', NOW))
  M.owe_call(id, run.R, run.v)
  M.tell_event('quarantined', run, nil, 'corrupt', why)
  M.tell_event('finished', run, nil, 'corrupt', why)
  if ckey then call('ZREM', P .. 'waiters:' .. ckey, id) end
  if ckey and held then M.hand_over(ckey, id) end
end
