-- outcome: what an attempt's end becomes, of a step or a single task (`run` nil): an end, another try, the queue again.
function M.retry_of(run, task)
  if not run then return M.solo_retry(task) end
  return M.plan_of(run, task).r
end

function M.stop_of(run, task)
  if run then return M.stopped(run, task) end
  return M.solo_stopped(task)
end

function M.finish_any(run, task, state, cause, message)
  if run then M.end_task(run, task, state, cause, message) else M.end_solo(task, state, cause, message) end
end

local function changed(run, task)
  if run then M.touch(task) else M.save_solo(task) end
end

local function say(event, run, task, cause, message)
  if run then M.tell_event(event, run, task, cause, message) else M.solo_event(event, task, cause, message) end
end

function M.attempt_ended(run, task, state, cause, message)
  local stopped = M.stop_of(run, task)
  if state == CANCELLED then cause = stopped or cause or 'cancelled' end
  local used = task.a or 0
  local final, delay, again = M.after_attempt(state, cause, used, M.retry_of(run, task), stopped)
  if final then
    task.a = used + 1
    return M.finish_any(run, task, final, delay, message)
  end
  task.a, task.s, task.c, task.q = again, WAITING, cause, nil
  task.S = not run and (task.S or task.Q) or nil
  M.set_due(task, NOW + math.floor(delay * 1000000))
  changed(run, task)
  say('retrying', run, task, cause, message)
end

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
