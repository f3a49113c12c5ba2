-- queue: places in lists. An entry is TASK@SEQ; the sorted set `pending` of a queue holds every task that is queued and
-- not claimed, by its SEQ: it decides who claims, the list only hands out. A paused queue's entries stand in `held`.
function M.list_key(queue, version)
  local name = queue == 'default' and 'workflow:queue' or 'workflow:queue:{workflow:queue}:' .. queue
  if (version or 1) > 1 then return 'workflow:queue:{workflow:queue}:' .. queue .. '@v' .. version end
  return name
end

function M.pending_key(queue, version) return P .. 'pending:' .. queue .. M.mark(version) end

function M.queue_of(run, task) return task.u or M.plan_of(run, task).q or 'default' end

function M.push(queue, version, task)
  task.q = 0
  M.pushes[#M.pushes + 1] = { queue, version or 1, task }
end

-- Back to the head with its old number: the list stays in order of SEQ, which `rescue` goes by. False when it would not.
function M.push_front(queue, version, task, seq)
  local key = M.list_key(queue, version)
  if call('SISMEMBER', P .. 'paused', queue) == 1 then key = P .. 'held:' .. queue .. '@' .. (version or 1) end
  local first = call('LINDEX', key, 0)
  if first and tonumber(string.match(first, '@(%d+)$')) <= seq then return false end
  local name = task.run .. '.' .. task.idx
  task.q = seq
  call('ZADD', M.pending_key(queue, version), seq, name)
  call('LPUSH', key, name .. '@' .. string.format('%.0f', seq))
  return true
end

-- Drop a place that is known to be taken.
function M.unplace(queue, version, task)
  if task.q == 0 then
    for n, push in ipairs(M.pushes) do
      if push[3] == task then table.remove(M.pushes, n) break end
    end
  else
    call('ZREM', M.pending_key(queue, version), task.run .. '.' .. task.idx)
  end
  task.q = nil
end

function M.count_parked(queue, delta)
  if delta ~= 0 then M.parked = M.parked or {}; M.parked[queue] = (M.parked[queue] or 0) + delta end
end

local function listed(run, queue) return run.li[queue] or 0 end
M.listed = listed

function M.list_one(run, queue, delta)
  run.li[queue] = listed(run, queue) + delta
  M.touch_run(run)
end

local function parked_key(run, queue) return P .. 'parked:' .. run.id .. ':' .. queue end

-- Ready: into its queue, or, when enough of its run stand there, into the run's own line.
function M.enqueue(run, task)
  M.unset_due(task)
  task.s, task.Q = QUEUED, NOW
  M.touch(task)
  local queue = M.queue_of(run, task)
  if listed(run, queue) < REQ.window then
    M.list_one(run, queue, 1)
    M.push(queue, run.v, task)
  else
    task.q = nil
    run.pa = run.pa + 1
    M.count_parked(queue, 1)
    call('RPUSH', parked_key(run, queue), task.idx)
  end
  M.touch_run(run)
end

-- It leaves the queue, by a claim or an end.
function M.unlist(run, task, ended)
  local queue = M.queue_of(run, task)
  if task.q == nil then
    run.pa = run.pa - 1
    M.count_parked(queue, -1)
  else
    M.list_one(run, queue, -1)
    if ended then M.unplace(queue, run.v, task) end
    task.q = nil
  end
  if run.pa > 0 then M.short = M.short or {}; M.short[run.id .. ' ' .. queue] = true end
  M.touch_run(run)
end

local function refill_one(id, queue)
  local run = M.run(id)
  while listed(run, queue) < REQ.window and run.pa > 0 do
    local idx = call('LPOP', parked_key(run, queue))
    if not idx then break end
    local task = M.find_task(id, tonumber(idx))
    if task and task.s == QUEUED and task.q == nil then
      M.list_one(run, queue, 1)
      run.pa = run.pa - 1
      M.count_parked(queue, -1)
      M.push(queue, run.v, task)
      M.touch(task)
    end
  end
end

function M.refill()
  local short = M.short or {}
  M.short = false
  for name in pairs(short) do
    local id, queue = string.match(name, '^(%w+) (.*)$')
    M.guarded(id, refill_one, id, queue)
  end
end

local function due_key(task)
  local run = M.runs[task.run]
  return P .. 'due' .. M.mark((run or task).v)
end

function M.set_due(task, at)
  task.d = at
  call('ZADD', due_key(task), at, 't' .. task.run .. '.' .. task.idx)
end

function M.unset_due(task)
  if task.d then
    call('ZREM', due_key(task), 't' .. task.run .. '.' .. task.idx)
    task.d = nil
  end
end
