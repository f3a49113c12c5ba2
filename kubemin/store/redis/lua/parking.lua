-- parking: a run's own line: what has no place in a list yet; goes on from queue.lua.
function M.count_parked(queue, delta)
  if delta ~= 0 then M.parked = M.parked or {}; M.parked[queue] = (M.parked[queue] or 0) + delta end
end

local function listed(run, queue) return run.li[queue] or 0 end
M.listed = listed

function M.list_one(run, queue, delta)
  if run.x then return end -- small enough to stand in lists as a whole
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
