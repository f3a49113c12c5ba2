--@ top: core solo
-- States of many runs.
-- KEYS   1 runs (names the slot; the runs follow from ARGV)
-- ARGV   1 prefix; 2 packed (empty); then ids
-- reply  for each its number, or -1
local states = {}
for n = 3, #ARGV do
  local found = call('HMGET', P .. 'run:' .. ARGV[n], 's', 'r')
  if found[1] then
    local known, task = pcall(M.read_state, found[1])
    local state = known and task.s or 2
    if state == 0 or state == 1 then
      local queue = known and (task.u or 'default') .. ((task.v or 1) > 1 and '@v' .. task.v or '')
      local waits = state == 0 or call('ZSCORE', P .. 'pending:' .. queue, ARGV[n] .. '.0')
      state = (task.k or not waits) and 2 or 0
    end
    states[n - 2] = state
  else
    local known, run = pcall(cmsgpack.unpack, found[2] or '')
    states[n - 2] = not found[2] and -1 or known and type(run) == 'table' and run.s or 2 -- spoilt: until it is put aside
  end
end
return states
