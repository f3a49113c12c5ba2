--@ top: core rules queue solo settle fanout building stopping outcome flush aside
--@ fenced
-- Time out runs past their deadline.
-- KEYS   1 deadlines
-- ARGV   1 prefix; 2 packed: limit
-- reply  how many
local found = call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', NOW), 'LIMIT', 0, REQ.limit)
for _, id in ipairs(found) do
  call('ZREM', KEYS[1], id)
  local run = M.guarded(id, M.find_run, id)
  if run and run.s < COMPLETED and not run.st then M.stop_run(run, 'run-timeout') end
end
M.settle(REQ.slice)
return M.reply(#found)
