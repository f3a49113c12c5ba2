--@ top: core tails
-- One part of a run that moves here: its tasks' records, outputs and tails, which nobody sees before `arrive`. What comes
-- late, when the run is here already, changes nothing.
-- KEYS   1 the run's record, 2 its tasks, 3 their outputs, 4 arrived
-- ARGV   1 prefix; 2 packed: id, outputs [idx, JSON…], tails [[idx, stdout, stderr, most]…], budget; then index, record of each task
-- reply  1, or 0 when the run is here
if call('EXISTS', KEYS[1]) == 1 or call('HEXISTS', KEYS[4], REQ.id) == 1 then return 0 end
if #ARGV > 2 then call('HSET', KEYS[2], unpack(ARGV, 3)) end
if #REQ.outputs > 0 then call('HSET', KEYS[3], unpack(REQ.outputs)) end
for _, tail in ipairs(REQ.tails) do
  M.keep_tails({ id = REQ.id, idx = tail[1] }, tail[2], tail[3], tail[4], REQ.budget)
end
return 1
