-- ending: ends of tasks and runs, and what is told of them; goes on from settle.lua.
-- Why this task must not go on, if so.
function M.stopped(run, task)
  if not run.st or band(task.f or 0, ALWAYS) ~= 0 then return nil end
  return run.st
end

function M.tell_event(event, run, task, cause, message)
  local seconds = 0
  if event == 'started' and task then
    seconds = max(NOW - (task.Q or NOW), 0) / 1000000 -- that it waited
  elseif task and (task.E or 0) > (task.B or NOW) then
    seconds = (task.E - task.B) / 1000000
  end
  M.events[#M.events + 1] = cjson.encode({
    event, run.id, run.W, task and (task.p or task.idx) or -1, task and (task.i or -1) or -1, task and task.idx or -1,
    NAMES[(task or run).s], cause or (task or run).c or '', task and (task.a or 0) or 0, message or '', run.d, seconds, -1,
  })
end

local ENDED = { [SKIPPED] = 'skipped', [CANCELLED] = 'cancelled' }

function M.end_task(run, task, state, cause, message)
  local was_queued = task.s == QUEUED
  M.unset_due(task)
  task.s, task.c, task.E = state, cause, NOW
  M.touch(task)
  if was_queued then M.unlist(run, task, true) end
  local plan = M.plan_of(run, task)
  local bad = state == FAILED or state == TIMEOUT
  if not run.c and bad and (plan.k == 'task' or plan.k == 'fanout') then run.c = cause or NAMES[state] end
  if plan.k ~= 'gate' then
    M.tell_event(cause == 'crash' and 'quarantined' or ENDED[state] or 'finished', run, task, nil, message)
  end
  run.l = run.l - 1
  M.touch_run(run)
  if task.i then
    M.child_ended(run, task)
  elseif (plan.D or 0) > 0 then
    M.later('tell', run.id, task.idx)
  end
  if run.l == 0 and run.s < COMPLETED then M.end_run(run) end
end

-- `onFailure`: hooks.py pays. Its own failure starts no other.
function M.owe_call(id, round, version)
  if REQ.hook then call('RPUSH', P .. 'hooks' .. M.mark(version), string.format('%s %d', id, round)) end
end

function M.end_run(run)
  M.touch_run(run)
  if run.dl then call('ZREM', P .. 'deadlines' .. M.mark(run.v), run.id) end
  if run.du then call('ZREM', P .. 'due' .. M.mark(run.v), 'r' .. run.id) end
  run.s, run.c = M.run_end(run.st, run.c)
  run.E, run.dl, run.du = NOW, nil, nil
  call('RPUSH', P .. 'ended', run.id .. string.format(' %.0f', NOW))
  if (run.s == FAILED or run.s == TIMEOUT) and run.W ~= 'on-failure' then M.owe_call(run.id, run.R, run.v) end
  M.tell_event('finished', run)
  local key, held = run.ck, run.h
  run.ck, run.h = nil, nil
  if key then call('ZREM', P .. 'waiters:' .. key, run.id) end
  if key and held then M.hand_over(key, run.id) end
end
