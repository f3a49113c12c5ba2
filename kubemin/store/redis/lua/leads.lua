-- leads: each record of a page, held against what should lead to it; goes on from orphans.lua.
local function take_claim(run, task)
  if run then M.touch(task) else M.save_solo(task) end
  task.s = RUNNING
  return M.charge(run, task, 'node-lost')
end

local function place_of(run, task, queue)
  return call('ZSCORE', M.pending_key(queue, (run or task).v), task.run .. '.' .. task.idx)
end

-- A single task that was claimed is still written as queued: its lock tells.
local function take_queued(run, task)
  local queue = run and M.queue_of(run, task) or task.u or 'default'
  if run and not task.q or place_of(run, task, queue) then return false end -- in its run's own line, or in its place
  if not run and call('EXISTS', 'lock:{workflow:queue}:' .. task.run .. '.0') == 1 then return take_claim(nil, task) end
  if run then M.list_one(run, queue, -1) end
  return M.requeue(run, task, 'node-lost')
end

local function look_at_task(id, idx)
  local run = M.find_run(id)
  local task = run and M.find_task(id, idx) or not run and M.solo(id)
  if not task or M.is_aside(run) or run and run.s >= COMPLETED then return false end
  if task.s == QUEUED then return take_queued(run, task) end
  if task.s == WAITING and task.d then
    M.set_due(task, task.d)
  elseif run and task.s == RUNNING and (task.p or M.plan(run, idx).k == 'task') then -- by a claim; fan-outs run without one
    return take_claim(run, task)
  end
  return false
end

local function look_at_run(id)
  local run = M.find_run(id)
  if not run or run.s >= COMPLETED then return end
  if run.dl then call('ZADD', P .. 'deadlines' .. M.mark(run.v), run.dl, id) end
  if run.du then return call('ZADD', P .. 'due' .. M.mark(run.v), run.du, 'r' .. id) end
  if not run.ck or run.h or run.st or call('ZSCORE', P .. 'waiters:' .. run.ck, id) then return end
  M.acquire(run)
  M.release_if_ready(run)
end

for _, id in ipairs(REQ.runs) do M.guarded(id, look_at_run, id) end
local requeued = {}
for _, found in ipairs(REQ.tasks) do
  local name = found[1] .. '.' .. found[2]
  if not held[name] and M.guarded(found[1], look_at_task, found[1], found[2]) then requeued[#requeued + 1] = name end
end
M.settle(REQ.slice)
M.flush()
if REQ.done and call('GET', KEYS[2]) == REQ.done then call('DEL', KEYS[2]) end
return M.reply(requeued)
