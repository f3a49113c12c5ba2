--@ top: core rules queue solo settle fanout building stopping outcome flush aside unfolding
-- Run a terminal run again: what did not complete, or `step` and all after it. Raises its round.
-- KEYS   1 the run's record
-- ARGV   1 prefix; 2 packed: id, again (index of the step, a group's gate) or nil, ckey, policy; where it is signed, round that was signed and
--        signature, of a single task extra, which holds it
-- reply  round, "?" no such run, "-" it has not ended, "c" it has completed, "~" another round was signed, "%ID" holds its concurrency key
local run = M.find_run(REQ.id)
if not run then
  local task = M.solo(REQ.id)
  if not task then return M.reply('?') end
  if task.s < COMPLETED then return M.reply('-') end
  if task.s == COMPLETED and not REQ.again then return M.reply('c') end
  if REQ.extra then call('HSET', KEYS[1], 'x', REQ.extra) end
  task.R = (task.R or 1) + 1
  local token, submitted, queue, version, round = task.k, task.S or task.Q, task.u, task.v, task.R
  local fresh = { run = task.run, idx = 0, x = task.x, k = token, f = band(task.f or 0, SETTLED), S = submitted, u = queue, v = version, R = round }
  call('HDEL', KEYS[1], 'o')
  M.queue_solo(fresh)
  return M.reply(round)
end
if run.s < COMPLETED then return M.reply('-') end
if run.s == COMPLETED and not REQ.again then return M.reply('c') end
if REQ.ckey and REQ.policy == 'reject' then
  local holder = call('HGET', P .. 'holders', REQ.ckey)
  if holder then return M.reply('%' .. holder) end
end
if REQ.round then
  if run.R + 1 ~= REQ.round then return M.reply('~') end
  call('HSET', KEYS[1], 'sig', REQ.signature)
end
M.unfold(run.id)
run.R = run.R + 1
run.ag = REQ.again
run.s, run.g = WAITING, 0
run.st, run.c, run.E, run.dl, run.du, run.h = nil, nil, nil, nil, nil, nil
run.ck, run.po = REQ.ckey, REQ.policy
for queue in pairs(run.li) do call('DEL', P .. 'parked:' .. run.id .. ':' .. queue) end
run.l, run.li, run.pa, run.x = 1, {}, 0, nil
M.touch_run(run)
M.acquire(run)
if not run.ck or run.h then run.s = RUNNING end
M.tell_event('retrying', run)
M.later('rebuild', run.id)
M.settle(REQ.slice)
return M.reply(run.R)
