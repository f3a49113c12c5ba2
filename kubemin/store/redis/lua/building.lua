--@ then: rebuilding
-- building: whole runs, piece by piece: their records, their reset for `retry`, release, stop. Nothing of a run starts
-- before all its records exist: a run holds one `l` (live) of its own until it is wholly released.
-- A run's record (packed map): d definition, W workflow, N nodes, s state, st why it is stopped, c cause, R round,
-- S submitted, sa start_at, sc scheduled_at, B started, E finished, du due, dl deadline, T time-out (seconds), ck
-- concurrency key, po its policy, pl its turn among those that wait for it, h holds it, l live, li in lists, pa parked, nx next idx, g stage, ag step to run again from, ky key, mv moved
-- here and not released: first idx not used, x 1 where plain steps
-- (steps.lua) go on by themselves: its tasks' field h, where not empty, stands for `l`, and `li` is not counted; v version.

function M.build(id, _, pos)
  local run = M.run(id)
  local upto = min(run.N, pos + max(M.budget(), 1))
  for at = pos, upto - 1, 200 do
    local last = min(at + 199, upto - 1)
    local fields = {}
    for idx = at, last do fields[#fields + 1] = idx end
    local plans = call('HMGET', P .. 'graph:' .. run.d, unpack(fields))
    for n, idx in ipairs(fields) do
      local plan = unpack_one(plans[n])
      M.new_task(id, idx, { s = WAITING, o = plan.n, f = M.starts_in_stopped_run(plan.w) and ALWAYS or nil })
    end
  end
  run.l = run.l + (upto - pos)
  M.touch_run(run)
  M.spend(upto - pos)
  if upto < run.N then return M.later('build', id, 0, upto) end
  M.built(run)
end

function M.built(run)
  run.g = BUILT
  M.touch_run(run)
  M.release_if_ready(run)
end

-- Its roots start when all its records exist, it is due, and it holds its concurrency key.
function M.release_if_ready(run)
  if run.g ~= BUILT or run.du or (run.ck and not run.h) then return end
  run.g = RELEASED
  M.touch_run(run)
  M.later('release', run.id)
end

-- It waits for nothing more. Of a run that moved here its retries have to be due here, and children may have been queued.
local function start(run, task)
  local queued = task.Q
  if task.d then
    if run.mv then M.set_due(task, task.d) end
  elseif task.i then
    local cause = M.stopped(run, task)
    if cause then M.end_task(run, task, CANCELLED, cause) else M.enqueue(run, task) end
  elseif task.o == 0 then
    M.decide(run, task)
  end
  if task.s == QUEUED and queued then task.Q = queued end
end

function M.release(id, _, pos)
  local run = M.run(id)
  local last = run.mv or run.N
  local upto = min(last, pos + max(M.budget(), 1))
  local indexes = {}
  for idx = pos, upto - 1 do indexes[#indexes + 1] = idx end
  M.preload(id, indexes)
  for _, idx in ipairs(indexes) do
    local task = idx < run.N and M.task(id, idx) or M.tasks[id .. '.' .. idx]
    if task and task.s == WAITING then start(run, task) end
  end
  M.spend(upto - pos)
  if upto < last then return M.later('release', id, 0, upto) end
  run.l, run.mv = run.l - 1, nil
  M.touch_run(run)
  if run.l == 0 and run.s < COMPLETED then M.end_run(run) end
end
