--@ fenced
--@ top: slots
-- Drop terminal runs outside the retention, oldest end first.
-- KEYS   1 ended, 2 slots, 3 runs, 4 keys, 5 references
-- ARGV   1 prefix; 2 packed: now, runs (to keep), aged and young (microseconds), limit, version
-- reply  how many
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end
-- Ends that slots have not written out yet.
for _, name in ipairs(call('SRANDMEMBER', KEYS[2], 200)) do
  local key = P .. 'slot:' .. name
  local raw = call('GET', key)
  local slot = slots.parse(raw)
  if slot.e ~= '' and not slot.strange then
    slots.write_ended(slot.e)
    slot.e = ''
    call('SET', key, slots.text(slot))
  end
end

local function forget(id, record, key)
  call('UNLINK', P .. 'run:' .. id, P .. 'tasks:' .. id, P .. 'out:' .. id, P .. 'tails:' .. id)
  for queue in pairs(record.li or {}) do call('DEL', P .. 'parked:' .. id .. ':' .. queue) end
  call('ZREM', KEYS[3], id)
  if key then
    local taken = call('HGET', KEYS[4], key)
    if taken and string.sub(taken, 1, 20) == id then call('HDEL', KEYS[4], key) end
  end
  if record.d and record.W and call('HINCRBY', KEYS[5], record.d, -1) <= 0 then call('HDEL', KEYS[5], record.d) end
end

local gone, looked = 0, 0
local excess = call('LLEN', KEYS[1]) - REQ.runs
while gone < REQ.limit and looked < 2 * REQ.limit do
  looked = looked + 1
  local entry = call('LINDEX', KEYS[1], 0)
  if not entry then break end
  local id, finished = string.match(entry, '^(%w+) (%d+)$')
  local found = call('HMGET', P .. 'run:' .. id, 'r', 's', 'x')
  local raw = found[1] or found[2]
  local known, record = pcall(cmsgpack.unpack, raw or '')
  if not known or type(record) ~= 'table' then record = nil end -- queued again, or spoilt: it stays
  if record and (record.v or 1) > REQ.version then
    call('RPUSH', P .. 'ended@v' .. record.v, entry) -- left to leaders who know it
  elseif record and record.s >= 3 and record.E == tonumber(finished) then
    finished = record.E
    if finished > NOW - REQ.young or not (finished <= NOW - REQ.aged or excess > 0) then break end
    local read, extra = pcall(cjson.decode, found[3] or '')
    local key = record.ky or (read and type(extra) == 'table' and type(extra.key) == 'string' and extra.key) or nil
    forget(id, record, key)
    gone = gone + 1
  end
  call('LPOP', KEYS[1])
  excess = excess - 1
end
return gone
