--@ top: core solo unfolding
-- One run as it is now, in one snapshot; tasks of a large one are left to be read in pieces.
-- KEYS   1 the run's record, 2 its tasks, 3 their outputs, 4 their tails
-- ARGV   1 prefix; 2 packed: id, most (tasks)
-- reply  [r, s, w, x, p, o, tasks, outputs, tails, where a single task stands: queued SEQ | running LOCK | '']
local found = call('HMGET', KEYS[1], 'r', 's', 'w', 'x', 'p', 'o')
local tasks, outputs, tails, where = {}, {}, {}, ''
local folded = found[1] and M.folded(REQ.id)
if folded then
  tasks, outputs, tails = folded[1], folded[2], call('HGETALL', KEYS[4])
elseif found[1] and call('HLEN', KEYS[2]) > REQ.most then
  tasks = false
elseif found[1] then
  tasks, outputs, tails = call('HGETALL', KEYS[2]), call('HGETALL', KEYS[3]), call('HGETALL', KEYS[4])
elseif found[2] then
  tails = call('HGETALL', KEYS[4])
  local known, state = pcall(M.read_state, found[2]) -- whatever its version
  if known and state.s == 1 then
    local queue = (state.u or 'default') .. ((state.v or 1) > 1 and '@v' .. state.v or '')
    local place = call('ZSCORE', P .. 'pending:' .. queue, REQ.id .. '.0')
    where = place or ('lock ' .. (call('GET', 'lock:{workflow:queue}:' .. REQ.id .. '.0') or ''))
  end
end
return { found[1], found[2], found[3], found[4], found[5], found[6], tasks, outputs, tails, where }
