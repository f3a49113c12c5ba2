-- children: one child of a fan-out: its begin, its claim, its end; goes on from fanout.lua.
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
