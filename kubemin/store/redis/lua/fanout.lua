--@ then: children
-- fanout: children are made a few at a time, as places come free, and end like a group. A child stands at base + item.
-- How many items there are is in the plan (a literal list), or told by a client that has read the outputs (`fan`).
function M.start_fan(run, task)
  local plan = M.plan(run, task.idx)
  task.s, task.B, task.n, task.m, task.o = RUNNING, NOW, nil, 0, 0
  task.f = M.clear(task.f, 254)
  M.touch(task)
  M.tell_event('started', run, task)
  if plan.I then
    M.fan_items(run, task, plan.I)
  else
    M.fans = M.fans or {}
    M.fans[#M.fans + 1] = { run.id, task.idx, run.R }
    call('SADD', P .. 'fans' .. M.mark(run.v), string.format('%s %d %d', run.id, task.idx, run.R))
  end
end

function M.fan_items(run, task, total)
  if not task.b or task.N ~= total then
    task.b = run.nx
    run.nx = run.nx + total
    M.touch_run(run)
  end
  task.n, task.N = total, total
  M.count_parked(M.queue_of(run, task), total)
  M.touch(task)
  M.later('fan', run.id, task.idx)
end

function M.fan(id, idx)
  local run = M.run(id)
  M.make_children(run, M.task(id, idx))
end

function M.make_children(run, task)
  if task.s ~= RUNNING or not task.n then return end
  local plan = M.plan(run, task.idx)
  if not M.stopped(run, task) then
    local queue = M.queue_of(run, task)
    local most = plan.P or task.n
    while task.m < task.n and task.o < most and (task.o == 0 or M.listed(run, queue) < REQ.window) do
      if M.budget() <= 0 then return M.later('fan', run.id, task.idx) end
      M.spend(1)
      M.begin_child(run, task, task.m)
      task.m = task.m + 1
      M.touch(task)
    end
    if task.m < task.n then return end
  end
  if task.o == 0 then
    M.count_parked(M.queue_of(run, task), task.m - task.n)
    task.f = M.clear(task.f, FRESH)
    local state, cause = M.join_end(plan.w, task.f or 0, run.st)
    M.end_task(run, task, state, cause)
  end
end
