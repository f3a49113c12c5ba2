-- Drop definitions that nothing refers to.
-- KEYS   1 definitions, 2 references, 3 workflows
-- ARGV   1 prefix; 2 packed: hashes, before (microseconds)
-- reply  how many
local used, gone = {}, 0
for _, raw in ipairs(call('HVALS', KEYS[3])) do
  local known, workflow = pcall(cmsgpack.unpack, raw)
  if not known or type(workflow) ~= 'table' or not workflow.h then return 0 end -- nobody knows what it refers to
  used[workflow.h] = true
end
for _, hash in ipairs(REQ.hashes) do
  local at = call('ZSCORE', KEYS[1], hash)
  if at and tonumber(at) < REQ.before then
    if used[hash] or call('HEXISTS', KEYS[2], hash) == 1 then
      call('ZADD', KEYS[1], REQ.before + 3600000000, hash) -- asked again in an hour
    else
      call('ZREM', KEYS[1], hash)
      call('UNLINK', P .. 'graph:' .. hash)
      gone = gone + 1
    end
  end
end
return gone
