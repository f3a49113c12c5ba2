-- taking_back: what becomes of one claim of a slot when its worker does not end it (lose.lua).
function M.lock_of(claim) return 'lock:{workflow:queue}:' .. claim.name end

-- Whether this claim is meant.
function M.is_wanted(claim)
  if REQ.mode == 'give' then return REQ.only[claim.name] == claim.token end
  if REQ.mode == 'lapse' then return call('EXISTS', M.lock_of(claim)) == 0 end
  return true
end

-- Of a version that this node does not know: kept for a leader who does.
function M.is_of_newer(claim)
  if claim.kind == 0 then
    local known, run = pcall(M.look_at, claim.id)
    return known and run and M.is_newer(run)
  end
  local state = call('HGET', P .. 'run:' .. claim.id, 's')
  local known, task = pcall(M.read_state, state or '')
  return known and M.is_newer(task)
end

local function blamed(run, task, blame)
  task.D = blame[6]
  if blame[3] >= 0 then
    M.attempt_ended(run, task, blame[3], blame[4], blame[5])
    return false
  end
  return M.charge(run, task, M.CHARGES[blame[4]] and blame[4] or 'worker-lost', blame[5])
end

-- True: it is queued again. `count`: claims of the slot.
function M.take_back(claim, count)
  local run, task = M.claimed(claim)
  if M.is_aside(run) then return false end
  if run then M.touch(task) else M.save_solo(task) end
  if REQ.mode == 'give' then
    task.B, task.w = nil, nil
    M.requeue(run, task, nil, claim.token)
    return true
  end
  local blame = REQ.blame
  if blame and blame[1] == claim.name and blame[2] == claim.token then return blamed(run, task, blame) end
  if REQ.started and REQ.started[claim.name] == claim.token then return M.charge(run, task, REQ.cause) end
  if REQ.mode == 'lapse' or REQ.guess then
    if count == 1 then return M.charge(run, task, REQ.cause) end
    task.A = 1 -- nobody knows which of a batch was running: each goes alone from here on, and is charged then
  end
  return M.requeue(run, task, REQ.cause)
end
