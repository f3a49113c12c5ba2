-- A node's heartbeat. Its name belongs to the machine and state directory that beat last, while that is fresh.
-- KEYS   1 nodes
-- ARGV   1 prefix; 2 packed: name, place (machine and state directory), life (seconds); 3 record (JSON object)
-- reply  1, or the record of the other
local time = call('TIME')
local clock = time[1] * 1000000 + time[2]
local known = call('HGET', KEYS[1], REQ.name)
if known then
  local at, place, record = string.match(known, '^(%d+)\n([^\n]*)\n(.*)$')
  if place ~= REQ.place and clock - tonumber(at) < REQ.life * 1000000 then return record end
end
call('HSET', KEYS[1], REQ.name, string.format('%.0f', clock) .. '\n' .. REQ.place .. '\n' .. ARGV[3])
return 1
