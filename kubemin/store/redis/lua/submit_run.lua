--@ top: packing queueing
--@ engine: core rules queue solo settle fanout building stopping outcome mark flush aside
--@ fenced
--@ then: new_run
-- Accept one run of a workflow. Of a large graph the rest is unpacked by `advance`.
-- KEYS   1 the run's record, 2 its definition, 3 runs, 4 keys, 5 holders
-- ARGV   1 prefix; 2 packed: id, hash, workflow, params (JSON or ''), key, digest, start_at, scheduled_at, ckey, policy, patient,
--        version, signature, again "workflow slot" of a schedule
-- reply  1 new, 0 was there, "=ID" the key's run, "!ID" the key is another's, "%ID" holds the concurrency key, "?" no such definition
local M
local function E()
  M = M or engine()
  return M
end
local function plainly(result) return M and M.reply(result) or { result, 0, {}, {} } end

if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end
if REQ.mark and not E().raise_mark(REQ.mark[1], REQ.mark[2]) then return plainly('m') end
local known = call('HMGET', KEYS[2], 'meta', 't')
if not known[1] then return plainly('?') end
local meta = cmsgpack.unpack(known[1])
if REQ.key then
  local taken = call('HGET', KEYS[4], REQ.key)
  if taken then return plainly((string.sub(taken, 22) == REQ.digest and '=' or '!') .. string.sub(taken, 1, 20)) end
end
if call('EXISTS', KEYS[1]) == 1 then return plainly(0) end
if REQ.ckey and REQ.policy == 'reject' and not REQ.patient then
  local holder = call('HGET', KEYS[5], REQ.ckey)
  if holder then return plainly('%' .. holder) end
end
if REQ.key then call('HSET', KEYS[4], REQ.key, REQ.id .. ' ' .. REQ.digest) end
if REQ.params ~= '' then call('HSET', KEYS[1], 'p', REQ.params) end
if REQ.signature ~= '' then call('HSET', KEYS[1], 'sig', REQ.signature) end
call('ZADD', KEYS[3], 0, REQ.id)
call('HINCRBY', P .. 'references', REQ.hash, 1)
