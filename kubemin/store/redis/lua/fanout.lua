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

function M.begin_child(run, parent, item)
  local idx = parent.b + item
  local queue = M.queue_of(run, parent)
  M.count_parked(queue, -1)
  local child = run.R > 1 and M.find_task(run.id, idx) or nil
  if not child then
    child = M.new_task(run.id, idx, { s = WAITING, p = parent.idx, i = item, f = band(parent.f or 0, ALWAYS), o = 0 })
  elseif child.s == COMPLETED and band(parent.f or 0, FRESH) == 0 then
    return
  else
    M.reset(child, 0, 0)
  end
  parent.o = parent.o + 1
  run.l = run.l + 1
  M.enqueue(run, child)
end

-- A child was claimed: another may take its place in the queue.
function M.child_claimed(run, child)
  local parent = M.task(run.id, child.p)
  if parent.n and parent.m < parent.n then M.later('fan', run.id, parent.idx) end
end

function M.child_ended(run, child)
  local parent = M.task(run.id, child.p)
  parent.f = bor(parent.f or 0, M.passes(child.s, child.c, 0, 0))
  parent.o = parent.o - 1
  M.touch(parent)
  M.make_children(run, parent)
end

-- As before its first attempt; its token stays, so that tokens only rise.
function M.reset(task, open, flags)
  M.unset_due(task)
  task.f = bor(flags, band(task.f or 0, ALWAYS + SETTLED)) -- a late repeat of its last outcome is still known as one
  task.s, task.o = WAITING, open
  task.q, task.c, task.Q, task.B, task.E, task.D, task.w = nil, nil, nil, nil, nil, nil, nil
  task.a, task.y, task.l, task.z, task.A = nil, nil, nil, nil, nil
  if task.m then task.m = 0 end
  task.n = nil
  M.touch(task)
end
