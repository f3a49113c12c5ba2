--@ then: returning
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
