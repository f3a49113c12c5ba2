--@ top: core rules queue solo settle fanout building stopping outcome flush aside
-- A fan-out's items are known: it begins, or fails. Once, whoever says it.
-- KEYS   1 the run's record, 2 its tasks, 3 fans
-- ARGV   1 prefix; 2 packed: id, idx, round, total or -1, cause, message
-- reply  1
call('SREM', KEYS[3], string.format('%s %d %d', REQ.id, REQ.idx, REQ.round))
local run = M.guarded(REQ.id, M.find_run, REQ.id)
local task = run and run.R == REQ.round and M.find_task(REQ.id, REQ.idx)
if task and task.s == RUNNING and not task.n then
  if REQ.total < 0 then
    task.D = cjson.encode({ message = REQ.message })
    M.end_task(run, task, FAILED, REQ.cause, REQ.message)
  else
    M.fan_items(run, task, REQ.total)
  end
  M.settle(REQ.slice)
end
return M.reply(1)
