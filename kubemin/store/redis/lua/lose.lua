--@ top: slots core rules queue solo settle fanout building stopping outcome flush aside
-- A worker is dead, or gives back what it never started, or lost its locks: its claims are queued again or charged.
-- KEYS   1 the slot's record. Records of its tasks follow from data: built from the prefix.
-- ARGV   1 prefix; 2 packed: slot, mode `lose` (the incarnation is retired), `give` (only `only`), `lapse` (not retired, claims whose locks are gone),
--        cause, started {TASK = token} to charge, guess (nobody knows), blame [task, token, state or -1, cause, message, detail], only {TASK = token}, keep (s)
-- reply  [TASK…] queued again, then common
local raw = call('GET', KEYS[1])
local slot = slots.parse(raw)
local requeued, kept, unlocked = {}, {}, {}
if not raw and call('SISMEMBER', P .. 'slots', REQ.slot) == 1 then -- deleted, and what it held with it (orphans.py)
  call('SET', P .. 'orphans', string.format('%.0f', NOW))
end

local function lock_of(claim) return 'lock:{workflow:queue}:' .. claim.name end

local function wanted(claim, name)
  if REQ.mode == 'give' then return REQ.only[name] == claim.token end
  if REQ.mode == 'lapse' then return call('EXISTS', lock_of(claim)) == 0 end
  return true
end

local function blamed(run, task, blame)
  task.D = blame[6]
  if blame[3] >= 0 then
    M.attempt_ended(run, task, blame[3], blame[4], blame[5])
    return false
  end
  return M.charge(run, task, M.CHARGES[blame[4]] and blame[4] or 'worker-lost', blame[5])
end

local function take_back(claim, name)
  local run, task = M.claimed(claim)
  if M.is_aside(run) then return false end
  if run then M.touch(task) else M.save_solo(task) end
  if REQ.mode == 'give' then
    task.B, task.w = nil, nil
    M.requeue(run, task, nil, claim.token)
    return true
  end
  local blame = REQ.blame
  if blame and blame[1] == name and blame[2] == claim.token then return blamed(run, task, blame) end
  if REQ.started and REQ.started[name] == claim.token then return M.charge(run, task, REQ.cause) end
  if REQ.mode == 'lapse' or REQ.guess then
    if #slot.c == 1 then return M.charge(run, task, REQ.cause) end
    task.A = 1 -- nobody knows which of a batch was running: each goes alone from here on, and is charged then
  end
  return M.requeue(run, task, REQ.cause)
end

-- Of a version that this node does not know: kept for a leader who does.
local function is_newer(claim)
  if claim.kind == 0 then
    local known, run = pcall(M.look_at, claim.id)
    return known and run and M.is_newer(run)
  end
  local state = call('HGET', P .. 'run:' .. claim.id, 's')
  local known, task = pcall(M.read_state, state or '')
  return known and M.is_newer(task)
end

if REQ.mode == 'give' then table.sort(slot.c, function(one, other) return one.token > other.token end) end
for _, claim in ipairs(slot.c) do
  local name = claim.name
  if wanted(claim, name) and not is_newer(claim) then
    unlocked[#unlocked + 1] = lock_of(claim)
    if M.guarded(claim.id, take_back, claim, name) then requeued[#requeued + 1] = name end
  else
    kept[#kept + 1] = claim
  end
end
M.settle(REQ.slice)
M.flush()
for at = 1, #unlocked, 500 do call('DEL', unpack(unlocked, at, math.min(at + 499, #unlocked))) end
if REQ.mode == 'lose' then slots.write_ended(slot.e) end
if REQ.mode == 'lose' and #kept == 0 and not slot.strange then
  call('SET', KEYS[1], 'retired', 'EX', REQ.keep)
  call('SREM', P .. 'slots', REQ.slot)
else
  slot.c, slot.e = kept, REQ.mode == 'lose' and '' or slot.e
  if raw and raw ~= 'retired' and not slot.strange then call('SET', KEYS[1], slots.text(slot)) end
end
return M.reply(REQ.mode == 'give' and #unlocked or requeued)
