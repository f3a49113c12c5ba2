-- Entries that were popped and not claimed: below the head entry's own SEQ, or all when the list is empty. Pushed again
-- with a new SEQ when the same SEQ was suspect `wait` before, doubling for each task up to `most`.
-- KEYS   1 list, 2 held (its entries while the queue is paused), 3 pending, 4 suspects, 5 seq, 6 paused
-- ARGV   1 prefix; 2 packed: queue, wait (before the first push), base, most (microseconds), limit
-- reply  [pushed again, suspects that are left]
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end
local list = call('SISMEMBER', KEYS[6], REQ.queue) == 1 and KEYS[2] or KEYS[1]
local head = call('LINDEX', list, 0)
-- What is no entry of ours goes when it is popped.
local below = head and '(' .. (string.match(head, '@(%d+)$') or '0') or '+inf'
local found = call('ZRANGEBYSCORE', KEYS[3], '-inf', below, 'WITHSCORES', 'LIMIT', 0, REQ.limit)
local pushed, left = {}, 0
for n = 1, #found, 2 do
  local task, seq = found[n], found[n + 1]
  local known = call('HGET', KEYS[4], task)
  local before, since, wait = string.match(known or '', '^(%S+) (%d+) (%d+)$')
  wait = tonumber(wait or '0') -- 0: never pushed again
  if before ~= seq then
    call('HSET', KEYS[4], task, string.format('%s %.0f %.0f', seq, NOW, wait))
    left = left + 1
  elseif NOW - tonumber(since) >= (wait > 0 and wait or REQ.wait) then
    local place = call('INCR', KEYS[5])
    call('ZADD', KEYS[3], place, task)
    call('RPUSH', list, task .. '@' .. string.format('%.0f', place))
    local longer = math.min(math.max(wait, REQ.base) * 2, REQ.most)
    call('HSET', KEYS[4], task, string.format('%.0f %.0f %.0f', place, NOW, longer))
    pushed[#pushed + 1] = task
  else
    left = left + 1
  end
end
-- Those that were claimed since are suspect no more.
local some = call('HSCAN', KEYS[4], '0', 'COUNT', 100)[2]
for n = 1, #some, 2 do
  if not call('ZSCORE', KEYS[3], some[n]) then call('HDEL', KEYS[4], some[n]) end
end
return { pushed, left }
