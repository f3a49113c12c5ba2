-- rules: what follows from what, as in kubemin/model/transitions.py, which the tests hold this against.
-- Bits of what a node has heard: 1 tainted, 2 halted, 4 unmet, 8 a need failed, 16 a need was cancelled, 32 a need was
-- skipped with `upstream`; 64 and 128: a join's own gate was skipped with `upstream`, with `condition`; 16384 something
-- before the group failed. Marks of an edge: 1 soft, 2 from a gate to its join, 4 from a gate to a member.
function M.passes(state, cause, heard, marks)
  local told, soft, gate = band(heard, 16385), band(marks, 1) ~= 0, band(marks, 2) ~= 0
  if state == COMPLETED then
    if band(marks, 4) == 0 then return told end
    return told ~= 0 and 16384 or 0
  end
  if state == FAILED or state == TIMEOUT then return bor(told, 9) end
  if state == CANCELLED then return bor(told, 18) end
  if cause == 'upstream' then return bor(told, 2, gate and 64 or 32) end
  return bor(told, gate and 128 or 0, soft and 0 or 4)
end

-- Whether a step starts also in a run that is being stopped; `cleanup`: a plain step of an `always` group.
function M.starts_in_stopped_run(when) return when == 'always' or when == 'cleanup' end

-- nil: it starts; else state and cause of its end.
function M.decision(when, heard, stopped)
  if when == 'always' then return nil end
  if stopped and not M.starts_in_stopped_run(when) then return CANCELLED, stopped end
  if when == 'failure' then
    if band(heard, 16385) ~= 0 then return nil end
    return SKIPPED, band(heard, 2) ~= 0 and 'upstream' or 'condition'
  end
  if band(heard, 3) ~= 0 then return SKIPPED, 'upstream' end
  if band(heard, 4) ~= 0 then return SKIPPED, 'condition' end
  return nil
end

function M.join_end(when, heard, stopped)
  if stopped and not M.starts_in_stopped_run(when) then return CANCELLED, stopped end
  if band(heard, 64) ~= 0 then return SKIPPED, 'upstream' end
  if band(heard, 128) ~= 0 then return SKIPPED, 'condition' end
  if band(heard, 8) ~= 0 then return FAILED, 'group' end
  if band(heard, 16) ~= 0 then return CANCELLED, stopped or 'cancelled' end
  if band(heard, 33) == 33 then return FAILED, 'group' end
  return COMPLETED, nil
end

function M.run_end(stopped, failure)
  if stopped == 'run-timeout' then return TIMEOUT, stopped end
  if stopped then return CANCELLED, stopped end
  if failure then return FAILED, failure end
  return COMPLETED, nil
end

-- Seconds before the attempt after `used` ones; jitter up to 10 % of it.
function M.backoff(retry, used)
  local delay = min(retry.delay * retry.factor ^ (used - 1), retry.max_delay)
  if delay ~= delay then delay = retry.max_delay end
  return delay * (1 + 0.1 * (REQ.spread or 0))
end

local NOT_TRIED_AGAIN = { crash = true, start = true, reference = true, corrupt = true, unsigned = true, replayed = true }

-- nil, delay, used: tried again; else the attempt's end.
function M.after_attempt(state, cause, used, retry, stopped)
  used = used + 1
  local again = retry and not stopped and not NOT_TRIED_AGAIN[cause] and (state == FAILED or state == TIMEOUT)
    and retry.causes[NAMES[state]] and used <= retry.limit
  if again then return nil, M.backoff(retry, used), used end
  return state, cause
end

-- Of the `drains`-th drain. 'free', 'again' (an attempt is used up) or 'failed'.
function M.after_drain(drains, used, retry)
  if drains <= REQ.loss_limit then return 'free' end
  if retry and used + 1 <= retry.limit then return 'again' end
  return 'failed'
end
