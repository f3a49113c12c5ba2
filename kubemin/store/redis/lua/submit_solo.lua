--@ lazy
-- Accept one single task that has nothing beside its work: no key, no delay, no settings of its own. What `submit_solos`
-- does, without what it needs for many, and told as little as can be: each key and argument costs both sides.
-- KEYS   1 list, 2 `pending`, 3 the run; what follows from the prefix is in the same slot
-- ARGV   1 prefix, 2 id, 3 work, 4 queue, 5 version, 6 now (microseconds) or ''
-- reply  1 (new), 0 (was there)
local id, queue, version, now = ARGV[2], ARGV[4], ARGV[5], ARGV[6]
if call('EXISTS', KEYS[3]) == 1 then return 0 end
local list = KEYS[1]
if call('SISMEMBER', P .. 'paused', queue) == 1 then list = P .. 'held:' .. queue .. '@' .. version end
if now == '' then
  local time = call('TIME')
  now = string.format('%s%06d', time[1], time[2])
end
local task, place = id .. '.0', string.format('%d', call('INCR', P .. 'seq'))
call('HSET', KEYS[3], 's', 'q' .. now .. ' ' .. version .. ' ' .. queue, 'w', ARGV[3])
call('ZADD', P .. 'runs', 0, id)
call('SADD', P .. 'queues', queue .. '@' .. version)
call('ZADD', KEYS[2], place, task)
call('RPUSH', list, task .. '@' .. place)
return 1
