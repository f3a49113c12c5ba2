--@ fenced
--@ top: slots
-- Slots some of whose locks are gone: their node is lost. None during a grace, which begins when no coordinator has
-- renewed for longer than it should: then the server or its clock was away, not the workers.
-- KEYS   1 stamp, 2 slots
-- ARGV   1 prefix; 2 packed: cursor, count, ttl (ms), tolerance (microseconds)
-- reply  [next cursor, slots, seconds of grace left]
local time = call('TIME')
local clock = time[1] * 1000000 + time[2]
local stamp = call('HMGET', KEYS[1], 'newest', 'grace')
local newest, grace = tonumber(stamp[1] or '0'), tonumber(stamp[2] or '0')
if grace > clock + REQ.ttl * 1000 then grace = 0 end -- the clock was set back since
if clock - newest > REQ.tolerance or newest > clock + 1000000 then
  grace = clock + REQ.ttl * 1000
  call('HSET', KEYS[1], 'grace', string.format('%.0f', grace), 'newest', string.format('%.0f', clock))
end
if grace > clock then return { REQ.cursor, {}, math.ceil((grace - clock) / 1000000) } end
local page = call('SSCAN', KEYS[2], REQ.cursor, 'COUNT', REQ.count)
local found = {}
for _, name in ipairs(page[2]) do
  local raw = call('GET', P .. 'slot:' .. name)
  if not raw then -- deleted, and what it held with it (orphans.py)
    call('SREM', KEYS[2], name)
    call('SET', P .. 'orphans', string.format('%.0f', clock))
  end
  local slot = slots.parse(raw)
  for _, claim in ipairs(slot.c) do
    if call('EXISTS', 'lock:{workflow:queue}:' .. claim.name) == 0 then
      found[#found + 1] = name
      break
    end
  end
end
return { page[1], found, 0 }
