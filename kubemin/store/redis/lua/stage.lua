-- One part of a batch, kept until the batch is sealed. A part that is sent again is known.
-- KEYS   1 inbox, 2 parts, 3 batches
-- ARGV   1 prefix; 2 packed: batch, digest, count; 3 the part
-- reply  1, or 0 when it was there
if call('SADD', KEYS[2], REQ.digest) == 0 then return 0 end
local number = call('RPUSH', KEYS[1], call('SCARD', KEYS[2]) .. '|' .. ARGV[3])
call('HINCRBY', KEYS[3], REQ.batch, REQ.count)
call('EXPIRE', KEYS[1], 86400)
call('EXPIRE', KEYS[2], 86400)
return 1
