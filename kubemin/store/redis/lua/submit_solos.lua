-- Accept single tasks, many at once. One that is there already is told so.
-- KEYS   1 list (or `held` while paused), 2 `pending`, 3 seq, 4 runs, 5 queues, 6 keys, 7 due, 8 the `paused` set
-- ARGV   1 prefix; 2 packed: now, list, held, queue, name (queue@version), version; then for each: id, work, extra (or ''), key (or ''), digest, start_at
-- reply  for each 1 (new), 0 (was there), or the run that has its key: "=ID" the same, "!ID" something else
NOW = NOW or REQ.est
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end
local paused = call('SISMEMBER', KEYS[8], REQ.queue) == 1
local count = (#ARGV - 2) / 6
local answers, fresh, seen = {}, {}, {}

local function known(at)
  local id, key, digest = ARGV[at], ARGV[at + 3], ARGV[at + 4]
  if key ~= '' then
    local taken = call('HGET', KEYS[6], key) or seen[key]
    if taken then
      local same = string.sub(taken, 22) == digest
      return (same and '=' or '!') .. string.sub(taken, 1, 20)
    end
  end
  if seen[id] or call('EXISTS', P .. 'run:' .. id) == 1 then return 0 end
  return nil
end

for n = 1, count do
  local at = 6 * n - 3
  local before = known(at)
  answers[n] = before or 1
  if not before then
    fresh[#fresh + 1] = at
    seen[ARGV[at]] = true
    if ARGV[at + 3] ~= '' then seen[ARGV[at + 3]] = ARGV[at] .. ' ' .. ARGV[at + 4] end
  end
end
if #fresh == 0 then return answers end

local seq = call('INCRBY', KEYS[3], #fresh) - #fresh
local queue = REQ.queue ~= 'default' and REQ.queue or nil
local version = REQ.version > 1 and REQ.version or nil
local ready = string.format('q%.0f %d %s', NOW, REQ.version, REQ.queue)
local entries, scores, ids = {}, {}, {}
for n, at in ipairs(fresh) do
  local id, extra, start_at = ARGV[at], ARGV[at + 2], tonumber(ARGV[at + 5])
  local state = ready
  if start_at and start_at > NOW then
    state = cmsgpack.pack({ s = 0, S = NOW, u = queue, v = version, d = start_at })
    call('ZADD', KEYS[7], start_at, 't' .. id .. '.0')
  else
    local place = seq + n
    entries[#entries + 1] = id .. '.0@' .. string.format('%.0f', place)
    scores[#scores + 1] = place
    scores[#scores + 1] = id .. '.0'
  end
  if extra ~= '' then
    call('HSET', P .. 'run:' .. id, 's', state, 'w', ARGV[at + 1], 'x', extra)
  else
    call('HSET', P .. 'run:' .. id, 's', state, 'w', ARGV[at + 1])
  end
  if ARGV[at + 3] ~= '' then call('HSET', KEYS[6], ARGV[at + 3], id .. ' ' .. ARGV[at + 4]) end
  ids[#ids + 1] = 0
  ids[#ids + 1] = id
end
for at = 1, #ids, 1000 do call('ZADD', KEYS[4], unpack(ids, at, math.min(at + 999, #ids))) end
call('SADD', KEYS[5], REQ.name)
for at = 1, #entries, 500 do
  local last = math.min(at + 499, #entries)
  call('ZADD', KEYS[2], unpack(scores, 2 * at - 1, 2 * last))
  call('RPUSH', paused and REQ.held or KEYS[1], unpack(entries, at, last))
end
return answers
