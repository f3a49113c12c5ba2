-- A node's heartbeat. Its name belongs to the machine and state directory that beat last, while that is fresh. Who joins is compared
-- with all others here, where nobody joins between the look and the write.
-- KEYS   1 nodes
-- ARGV   1 prefix; 2 packed: name, place (machine and state directory), life (seconds), keys (ids of its signing keys) of one that joins;
--        3 record (JSON object)
-- reply  1; or the record of another: of its own name, or of a node that shares no signing key with it
local time = call('TIME')
local clock = time[1] * 1000000 + time[2]

local function parse(value)
  local at, place, record = string.match(value or '', '^(%d+)\n([^\n]*)\n(.*)$')
  if at and clock - tonumber(at) < REQ.life * 1000000 then return place, record end
end

local ours = {}
for _, key in ipairs(REQ.keys or {}) do ours[key] = true end

-- A node that does not sign runs what anybody signs.
local function shares_key(record)
  local known, node = pcall(cjson.decode, record)
  if not known or type(node) ~= 'table' or type(node.keys) ~= 'table' or #node.keys == 0 then return true end
  for _, key in ipairs(node.keys) do
    if ours[key] then return true end
  end
  return false
end

local function stranger()
  local nodes, strange = call('HGETALL', KEYS[1]), nil
  for n = 1, #nodes, 2 do
    local place, record = parse(nodes[n + 1])
    if place and nodes[n] ~= REQ.name then
      if shares_key(record) then return nil end
      strange = record
    end
  end
  return strange
end

local place, record = parse(call('HGET', KEYS[1], REQ.name))
if place and place ~= REQ.place then return record end
local strange = REQ.keys and stranger()
if strange then return strange end
call('HSET', KEYS[1], REQ.name, string.format('%.0f', clock) .. '\n' .. REQ.place .. '\n' .. ARGV[3])
return 1
