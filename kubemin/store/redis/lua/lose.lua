--@ fenced
--@ top: slots core rules queue solo settle fanout building stopping outcome flush aside taking_back
-- A worker is dead, or gives back what it never started, or lost its locks (for the leader of the moment to say): its
-- claims are queued again or charged.
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

if REQ.mode == 'give' then table.sort(slot.c, function(one, other) return one.token > other.token end) end
for _, claim in ipairs(slot.c) do
  if M.is_wanted(claim) and not M.is_of_newer(claim) then
    unlocked[#unlocked + 1] = M.lock_of(claim)
    if M.guarded(claim.id, M.take_back, claim, #slot.c) then requeued[#requeued + 1] = claim.name end
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
