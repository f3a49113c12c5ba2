-- begin: what a claim changes in records, and entries that cannot be claimed after all.
function M.begin(run, task, token)
  task.s, task.k, task.B, task.w = RUNNING, token, NOW, REQ.place
  task.f = M.clear(task.f, SETTLED)
  M.touch(task)
  if run.s == WAITING then
    run.s, run.B = RUNNING, run.B or NOW
    M.tell_event('started', run)
  end
  if not run.dl and run.T and not run.st then
    run.dl = NOW + math.floor(run.T * 1000000)
    call('ZADD', P .. 'deadlines' .. M.mark(run.v), run.dl, run.id)
  end
  M.touch_run(run)
  M.tell_event('started', run, task)
  if task.i then M.child_claimed(run, task) end
end

-- Its lock is somebody's: looked at again after a second.
function M.postpone(id, idx, pending)
  call('ZREM', pending, id .. '.' .. idx)
  local run = M.find_run(id)
  local task = run and M.find_task(id, idx) or (not run and M.solo(id))
  if not task or task.s ~= QUEUED then return end
  M.events[#M.events + 1] = cjson.encode({
    'locked', id, '', 0, -1, idx, 'queued', '', 0, call('GET', 'lock:{workflow:queue}:' .. id .. '.' .. idx) or '', '', 0, -1,
  })
  if run then
    M.unlist(run, task)
    M.touch(task)
  else
    task.S = task.S or task.Q
    M.save_solo(task)
  end
  task.s = WAITING
  M.set_due(task, NOW + 1000000)
end
