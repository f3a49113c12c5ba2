--@ top: core rules queue solo settle fanout building stopping outcome mark arriving flush
-- A run of a workflow that moves here becomes visible, with the tasks that `unload` brought, and goes on. A queued task
-- comes as a waiting one whose needs have ended: `release` queues it, when the run holds its concurrency key.
-- KEYS   1 the run's record, 2 its definition, 3 its tasks
-- ARGV   1 prefix; 2 packed: node, run (its record), params (JSON or ''), signature (or ''), tasks (how many), key, digest, floor, unmade {queue = items}
-- reply  1 new, 0 was here, "=ID" the key's run, "!ID" the key is another's, "?" no such definition, "-" not all tasks
--        are here: what was unloaded is lost
local run = REQ.run
if M.is_here(run.id) then return M.reply(0) end
local meta = call('HGET', KEYS[2], 'meta')
if not meta then return M.reply('?') end
if call('HLEN', KEYS[3]) ~= REQ.tasks then return M.reply('-') end
local taken = M.key_taken(REQ.key, REQ.digest)
if taken then return M.reply(taken) end
M.raise_seq(REQ.floor)
if run.sc then M.raise_mark(run.W, run.sc) end -- no leader fires this slot again
run.N, run.T = unpack_one(meta).n, unpack_one(meta).t
run.l, run.li, run.pa, run.g = run.l + 1, {}, 0, 0
run.pl = run.ck and call('INCR', P .. 'turn') or nil
M.runs[run.id] = run
M.touch_run(run)
for queue, items in pairs(REQ.unmade) do M.count_parked(queue, items) end
if run.dl then call('ZADD', P .. 'deadlines' .. (REQ.due_suffix or ''), run.dl, run.id) end
if run.du then call('ZADD', P .. 'due' .. (REQ.due_suffix or ''), run.du, 'r' .. run.id) end
local holder = run.ck and call('HGET', P .. 'holders', run.ck)
if M.take_wish(run.id) and not run.st then M.stop_run(run, 'cancelled') end
if run.po == 'replace' and holder and holder > run.id and not run.st then
  M.stop_run(run, 'replaced') -- by a younger run, which the fleet accepted first
elseif not run.du or run.po == 'reject' then
  M.acquire(run)
end
M.built(run)
M.settle(REQ.slice)
if REQ.params ~= '' then call('HSET', KEYS[1], 'p', REQ.params) end
if REQ.signature ~= '' then call('HSET', KEYS[1], 'sig', REQ.signature) end
call('HINCRBY', P .. 'references', run.d, 1)
M.note_arrival(run.id, REQ.key, REQ.digest)
return M.reply(1)
