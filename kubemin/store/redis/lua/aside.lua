-- aside: a run whose records make no sense (spoilt, deleted, changed by hand) ends as `failed`, cause `corrupt`, alone. What
-- this call has prepared of it is dropped, its record's bytes stay in the field `corrupt`, everyone else's work goes on.
-- Queued tasks of it are dropped when they are popped; what still runs is stopped (`st`), and its outcome is refused.
local function drop(list, is_of)
  for n = #list, 1, -1 do
    if is_of(list[n]) then table.remove(list, n) end
  end
end

local function forget(id)
  M.forget_work(id)
  drop(M.dirty, function(task) return task.run == id end)
  drop(M.dirtied, function(run) return run.id == id end)
  drop(M.solos, function(task) return task.run == id end)
  drop(M.pushes, function(push) return push[3].run == id end)
  drop(M.ripples, function(ripple) return string.match(ripple[2], '^%a+ (%w+)') == id end)
  for name in pairs(M.short or {}) do
    if string.match(name, '^%w+') == id then M.short[name] = nil end
  end
  for name in pairs(M.tasks) do
    if string.match(name, '^%w+') == id then M.tasks[name] = nil end
  end
  M.runs[id] = nil
end

-- A single task, or what is left of one.
function M.spoil(id, raw, why)
  why = why or 'its record cannot be read'
  call('HSET', P .. 'run:' .. id, 'corrupt', raw or '')
  local task = { s = RUNNING, Q = NOW, run = id, idx = 0, a = 1, D = cjson.encode({ message = why }) }
  M.end_solo(task, FAILED, 'corrupt', why)
  return nil
end

local function end_tasks(id)
  local key = P .. 'tasks:' .. id
  if call('HLEN', key) > 500 then return end
  local found = call('HGETALL', key)
  for n = 1, #found, 2 do
    local known, task = pcall(M.read_task, found[n + 1])
    if known and task.s < COMPLETED then
      task.s, task.c, task.E, task.q, task.d = CANCELLED, 'corrupt', NOW, nil, nil
      call('HSET', key, found[n], pack(task))
    end
  end
end

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
