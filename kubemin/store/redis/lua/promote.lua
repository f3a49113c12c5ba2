--@ top: core rules queue solo settle fanout building stopping outcome flush aside
--@ fenced
-- Queue what is due: delayed runs, retries whose backoff is over.
-- KEYS   1 due
-- ARGV   1 prefix; 2 packed: limit
-- reply  how many
local found = call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', NOW), 'LIMIT', 0, REQ.limit)
for _, member in ipairs(found) do
  local kind, id, idx = string.match(member, '^([rt])(%w+)%.?(%d*)$')
  call('ZREM', KEYS[1], member)
  local run = kind and M.guarded(id, M.find_run, id)
  if kind == 'r' then
    if run and run.s < COMPLETED and run.du then
      run.du = nil
      M.touch_run(run)
      M.acquire(run)
      M.release_if_ready(run)
    end
  elseif kind and idx ~= '' and (not run or run.s < COMPLETED) then
    local task = M.guarded(id, run and M.find_task or M.solo, id, tonumber(idx))
    if task and task.s == WAITING then
      task.d = nil
      local stopped = M.stop_of(run or nil, task)
      if stopped then
        M.finish_any(run or nil, task, CANCELLED, stopped)
      elseif run then
        M.enqueue(run, task)
      else
        M.queue_solo(task)
      end
    end
  end
end
M.settle(REQ.slice)
return M.reply(#found)
