--@ top: core rules queue solo settle fanout building stopping outcome mark flush aside
--@ fenced
-- Accept one run of a workflow. Of a large graph the rest is unpacked by `advance`.
-- KEYS   1 the run's record, 2 its definition, 3 runs, 4 keys, 5 holders
-- ARGV   1 prefix; 2 packed: id, hash, workflow, params (JSON or ''), key, digest, start_at, scheduled_at, ckey, policy, patient,
--        version, signature, again "workflow slot" of a schedule
-- reply  1 new, 0 was there, "=ID" the key's run, "!ID" the key is another's, "%ID" holds the concurrency key, "?" no such definition
if REQ.mark then
  local mark = M.raise_mark(REQ.mark[1], REQ.mark[2])
  if not mark then return M.reply('m') end
end
local meta = call('HGET', KEYS[2], 'meta')
if not meta then return M.reply('?') end
meta = cmsgpack.unpack(meta)
if REQ.key then
  local taken = call('HGET', KEYS[4], REQ.key)
  if taken then return M.reply((string.sub(taken, 22) == REQ.digest and '=' or '!') .. string.sub(taken, 1, 20)) end
end
if call('EXISTS', KEYS[1]) == 1 then return M.reply(0) end
if REQ.ckey and REQ.policy == 'reject' and not REQ.patient then
  local holder = call('HGET', KEYS[5], REQ.ckey)
  if holder then return M.reply('%' .. holder) end
end
if REQ.key then call('HSET', KEYS[4], REQ.key, REQ.id .. ' ' .. REQ.digest) end
if REQ.params ~= '' then call('HSET', KEYS[1], 'p', REQ.params) end
if REQ.signature ~= '' then call('HSET', KEYS[1], 'sig', REQ.signature) end
call('ZADD', KEYS[3], 0, REQ.id)
local due = REQ.start_at and REQ.start_at > NOW and REQ.start_at or nil
local run = {
  id = REQ.id, d = REQ.hash, W = REQ.workflow, N = meta.n, s = WAITING, R = 1, S = NOW, sa = REQ.start_at,
  sc = REQ.scheduled_at, du = due, ck = REQ.ckey, po = REQ.policy, pl = REQ.ckey and call('INCR', P .. 'turn') or nil, l = 1, li = {}, pa = 0, nx = meta.n, g = 0,
  T = meta.t, ky = REQ.key, v = REQ.version > 1 and REQ.version or nil,
}
M.runs[REQ.id] = run
M.touch_run(run)
if due then call('ZADD', P .. 'due' .. M.mark(run.v), due, 'r' .. run.id) end
if not due or REQ.policy == 'reject' then M.acquire(run) end
M.later('build', run.id)
call('HINCRBY', P .. 'references', run.d, 1)
M.settle(run.N <= REQ.slice and REQ.slice or 1)
return M.reply(1)
