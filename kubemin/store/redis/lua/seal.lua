-- Accept a staged batch as a whole: one flip. Once.
-- KEYS   1 inbox, 2 batches, 3 sealed, 4 sealing
-- ARGV   1 prefix; 2 packed: batch
-- reply  number of runs, or -1 when there is no such batch
local known = call('HGET', KEYS[3], REQ.batch)
if known then return tonumber(string.match(known, '^(%d+)')) end
local count = call('HGET', KEYS[2], REQ.batch)
if not count or call('EXISTS', KEYS[1]) == 0 then return -1 end
call('HSET', KEYS[3], REQ.batch, string.format('%s %.0f', count, NOW and NOW / 1000000 or call('TIME')[1]))
call('HDEL', KEYS[2], REQ.batch)
call('PERSIST', KEYS[1])
call('RPUSH', KEYS[4], REQ.batch)
return tonumber(count)
