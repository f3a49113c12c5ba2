--@ top: slots
-- Renew the locks of all that the slots named hold, set lapsed ones again, and stamp the time.
-- KEYS   1 stamp; then the record of each slot
-- ARGV   1 prefix; 2 packed: slots (locks' values without token, in the order of KEYS), ttl (ms), tolerance (microseconds),
--        held [[slot number, run, idx, token]…]
-- reply  [fenced (numbers in `held`), stops [slot number, run, idx, token, cause], locks that were set again]
local time = call('TIME')
local clock = time[1] * 1000000 + time[2]
local newest = tonumber(call('HGET', KEYS[1], 'newest') or '0')
if clock - newest > REQ.tolerance or newest > clock + 1000000 then
  call('HSET', KEYS[1], 'grace', string.format('%.0f', clock + REQ.ttl * 1000))
end
call('HSET', KEYS[1], 'newest', string.format('%.0f', clock))
local stops, again, tokens, runs = {}, 0, {}, {}

local function stop_of(claim)
  if claim.kind > 0 then return claim.stop end
  if claim.always then return nil end -- of a `when: always` step
  local id = claim.id
  if runs[id] == nil then
    local raw = call('HGET', P .. 'run:' .. id, 'r')
    local known, run = pcall(cmsgpack.unpack, raw or '') -- one that is spoilt must not cost the others their locks
    runs[id] = known and type(run) == 'table' and run.st or false
  end
  return runs[id]
end

for n = 1, #KEYS - 1 do
  local raw = call('GET', KEYS[n + 1])
  local slot = slots.parse(raw)
  for _, claim in ipairs(slot.c) do
    local name = claim.name
    local token = string.format('%.0f', claim.token)
    tokens[n .. ' ' .. name .. ' ' .. token] = true
    if call('PEXPIRE', 'lock:{workflow:queue}:' .. name, REQ.ttl) == 0 then
      call('SET', 'lock:{workflow:queue}:' .. name, REQ.slots[n] .. token, 'PX', REQ.ttl)
      again = again + 1
    end
    local cause = stop_of(claim)
    if cause then stops[#stops + 1] = { n, claim.id, claim.idx, token, cause } end
  end
end
local fenced, highest = {}, 0
for n, held in ipairs(REQ.held) do
  local name = held[1] .. ' ' .. held[2] .. '.' .. held[3] .. ' ' .. string.format('%.0f', held[4])
  if not tokens[name] then fenced[#fenced + 1] = n end
  highest = math.max(highest, held[4])
end
-- The counter went back with writes that a fail-over lost: no number that runs somewhere is given out again.
if tonumber(call('GET', P .. 'seq') or '0') < highest then call('SET', P .. 'seq', string.format('%.0f', highest)) end
return { fenced, stops, again }
