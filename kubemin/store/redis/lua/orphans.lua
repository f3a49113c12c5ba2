--@ top: slots core rules queue solo settle fanout building stopping outcome flush aside
--@ fenced
--@ then: leads
-- What has lost its only lead, because somebody deleted it: a claim whose slot's record is gone is queued again, as when a node is
-- lost; its lock is left to lapse: whoever ran it may still be at it until then. A queued task without a place gets a new one, what
-- waits for its time or a concurrency key is written down again where it is looked for.
-- KEYS   1 slots, 2 the mark that such a search is due
-- ARGV   1 prefix; 2 packed: runs [ID…] and tasks [[run, idx]…] to look at, done (the mark, when these were the last ones)
-- reply  [TASK…] queued again, then common
local held = {}
for _, name in ipairs(call('SMEMBERS', KEYS[1])) do
  local slot = slots.parse(call('GET', P .. 'slot:' .. name))
  if slot.strange then return M.reply({}) end -- nobody knows what it holds; its worker's end tells
  for _, claim in ipairs(slot.c) do held[claim.name] = true end
end

