-- flush: give places to what was queued, then write what changed.
local function place_one(push)
  local queue, version, task = push[1], push[2], push[3]
  task.q = call('INCR', P .. 'seq')
  local name, key = task.run .. '.' .. task.idx, M.list_key(queue, version)
  if call('SISMEMBER', P .. 'paused', queue) == 1 then key = P .. 'held:' .. queue .. '@' .. version end
  call('ZADD', M.pending_key(queue, version), task.q, name)
  call('RPUSH', key, name .. '@' .. string.format('%.0f', task.q))
end

function M.place_all()
  local pushes, lists = M.pushes, {}
  M.pushes = {}
  if #pushes == 0 then return end
  if #pushes == 1 then return place_one(pushes[1]) end
  local seq = call('INCRBY', P .. 'seq', #pushes) - #pushes
  for n, push in ipairs(pushes) do
    local queue, version, task = push[1], push[2], push[3]
    task.q = seq + n
    local name = queue .. '@' .. version
    local list = lists[name]
    if not list then
      list = { key = M.list_key(queue, version), pending = M.pending_key(queue, version), entries = {}, scores = {} }
      if call('SISMEMBER', P .. 'paused', queue) == 1 then list.key = P .. 'held:' .. queue .. '@' .. version end
      lists[name] = list
    end
    local label = task.run .. '.' .. task.idx
    list.entries[#list.entries + 1] = label .. '@' .. string.format('%.0f', task.q)
    list.scores[#list.scores + 1] = task.q
    list.scores[#list.scores + 1] = label
  end
  for _, list in pairs(lists) do
    for at = 1, #list.entries, 500 do
      local last = min(at + 499, #list.entries)
      call('ZADD', list.pending, unpack(list.scores, 2 * at - 1, 2 * last))
      call('RPUSH', list.key, unpack(list.entries, at, last))
    end
  end
end

local function write_tasks()
  local by_run = {}
  for _, task in ipairs(M.dirty) do
    local id, idx = task.run, task.idx
    local fields = by_run[id]
    if not fields then
      fields = {}
      by_run[id] = fields
    end
    task.run, task.idx, task.zz = nil, nil, nil
    fields[#fields + 1] = idx
    fields[#fields + 1] = pack(task)
    task.run, task.idx = id, idx
  end
  M.dirty = {}
  for id, fields in pairs(by_run) do
    for at = 1, #fields, 400 do
      call('HSET', P .. 'tasks:' .. id, unpack(fields, at, min(at + 399, #fields)))
    end
  end
end

local function write_runs()
  for _, run in ipairs(M.dirtied) do
    local id = run.id
    run.id, run.zz = nil, nil
    call('HSET', P .. 'run:' .. id, 'r', pack(run))
    run.id = id
  end
  M.dirtied = {}
end

local function write_ripples()
  local left = M.ripples
  M.ripples = {}
  if #left == 0 then return end
  local score = call('INCRBY', P .. 'turn', #left) - #left
  for n, ripple in ipairs(left) do call('ZADD', P .. 'ripples' .. M.mark(ripple[1]), score + n, ripple[2]) end
  M.left = true
end

function M.flush()
  M.place_all()
  M.write_solos()
  write_tasks()
  write_runs()
  for queue, delta in pairs(M.parked or {}) do call('HINCRBY', P .. 'backlog', queue, delta) end
  M.parked = false
  write_ripples()
end

-- What every operation of the engine answers: its result, whether work is left, fan-outs that wait for their items, events.
function M.reply(result)
  M.flush()
  local left = (M.left or M.fans) and 1 or 0
  return { result, left, M.fans or {}, M.events }
end
