-- returning: claims that did not end: back into their queue, at what cost; goes on from outcome.lua.
-- A claimed task back into its queue, or to its end when its run is being stopped. True: it is queued.
function M.requeue(run, task, cause, front)
  local stopped = M.stop_of(run, task)
  if stopped then
    M.finish_any(run, task, CANCELLED, stopped)
    return false
  end
  if run then
    task.s = QUEUED
    local queue = M.queue_of(run, task)
    M.list_one(run, queue, 1)
    if not (front and M.push_front(queue, run.v, task, front)) then M.push(queue, run.v, task) end
    M.touch(task)
  elseif front and M.push_front(task.u or 'default', task.v, task, front) then
    task.s = QUEUED
    M.save_solo(task)
  else
    M.queue_solo(task)
  end
  if not front then say('requeued', run, task, cause) end
  return true
end

local CHARGES = { ['worker-lost'] = 'y', ['node-lost'] = 'l' }
M.CHARGES = CHARGES

-- Count a death under this task; quarantine at the limit. True: it is queued again.
function M.charge(run, task, cause, message)
  local kind = CHARGES[cause]
  local limit = kind == 'y' and REQ.crash_limit or REQ.loss_limit
  task[kind] = min((task[kind] or 0) + 1, 255)
  changed(run, task)
  if task[kind] < limit then return M.requeue(run, task, cause) end
  task.a = (task.a or 0) + 1
  if not message or message == '' then message = 'its worker was killed under it ' .. limit .. ' times' end
  task.D = cjson.encode({ message = message })
  M.finish_any(run, task, FAILED, 'crash', message)
  return false
end

-- An attempt that did not end by itself: queued again, at no cost up to a limit.
function M.put_back(run, task, cause)
  if CHARGES[cause] then return M.charge(run, task, cause) end
  changed(run, task)
  if cause == 'drain' then
    task.z = min((task.z or 0) + 1, 255)
    local used = task.a or 0
    local then_ = M.after_drain(task.z, used, M.retry_of(run, task))
    if then_ == 'failed' then
      task.a = used + 1
      return M.finish_any(run, task, FAILED, 'drain')
    end
    if then_ == 'again' then task.a = used + 1 end
  end
  M.requeue(run, task, cause)
end

-- The records of a claim, as [run or nil, task]; a single task's hold what the claim knows.
function M.claimed(claim)
  local id, idx = claim.id, claim.idx
  if claim.kind == 0 then return M.run(id), M.task(id, idx) end
  local task = M.solo(id) or error('KUBEMIN_MISSING run ' .. id .. ' is missing')
  task.s, task.k, task.B, task.w = RUNNING, claim.token, claim.started, REQ.place or task.w
  if claim.stop then
    task.f, task.c = bor(task.f or 0, STOPPING), claim.stop
  end
  return nil, task
end
