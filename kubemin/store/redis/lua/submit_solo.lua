--@ lazy
-- Accept one single task that has nothing beside its work: no key, no delay, no settings of its own. What `submit_solos`
-- does, without what it needs for many: 13 µs, not 30.
-- KEYS   1 list, 2 `pending`, 3 seq, 4 runs, 5 queues, 6 the `paused` set, 7 the run
-- ARGV   1 prefix, 2 id, 3 work, 4 the end of its state (" VERSION QUEUE"), 5 queue, 6 queue@version, 7 held, 8 now (microseconds) or ''
-- reply  1 (new), 0 (was there)
local id, now = ARGV[2], ARGV[8]
if call('EXISTS', KEYS[7]) == 1 then return 0 end
local list = call('SISMEMBER', KEYS[6], ARGV[5]) == 1 and ARGV[7] or KEYS[1]
if now == '' then
  local time = call('TIME')
  now = time[1] .. string.format('%06d', time[2])
end
local task, place = id .. '.0', string.format('%.0f', call('INCR', KEYS[3]))
call('HSET', KEYS[7], 's', 'q' .. now .. ARGV[4], 'w', ARGV[3])
call('ZADD', KEYS[4], 0, id)
call('SADD', KEYS[5], ARGV[6])
call('ZADD', KEYS[2], place, task)
call('RPUSH', list, task .. '@' .. place)
return 1
