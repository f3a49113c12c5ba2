-- A node's workflow files as they are now. What it published before and has not changed is not published again (an old
-- node's restart does not win); a name is retired when no node has it.
-- KEYS   1 workflows, 2 publishers, 3 this node's files
-- ARGV   1 prefix; 2 packed: node, entries [[name, hash, schedule, version]…]
-- reply  [added, changed, removed]
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end
local added, changed, removed, own = {}, {}, {}, {}
for _, entry in ipairs(REQ.entries) do
  local name, hash, schedule = entry[1], entry[2], entry[3]
  own[name] = true
  local raw = call('HGET', KEYS[1], name)
  local read, known = pcall(cmsgpack.unpack, raw or '')
  if not read or type(known) ~= 'table' then known = nil end
  local before = call('HGET', KEYS[3], name)
  if not known or (known.h ~= hash and before ~= hash) then
    local mark = known and known.s == schedule and known.m or NOW
    local version = entry[4] > 1 and entry[4] or nil
    call('HSET', KEYS[1], name, cmsgpack.pack({ h = hash, at = NOW, m = mark, s = schedule, v = version }))
    local told = known and changed or added
    told[#told + 1] = name
  end
  if before ~= hash then call('HSET', KEYS[3], name, hash) end
end
call('SADD', KEYS[2], REQ.node)
for _, name in ipairs(call('HKEYS', KEYS[3])) do
  if not own[name] then
    call('HDEL', KEYS[3], name)
    local kept = false
    for _, node in ipairs(call('SMEMBERS', KEYS[2])) do
      kept = kept or call('HEXISTS', P .. 'files:' .. node, name) == 1
    end
    if not kept and call('HDEL', KEYS[1], name) == 1 then removed[#removed + 1] = name end
  end
end
return { added, changed, removed }
