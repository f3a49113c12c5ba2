--@ then: put_aside
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
