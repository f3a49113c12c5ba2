-- A part of a sealed batch was submitted: drop it, and the batch after its last.
-- KEYS   1 inbox, 2 sealing
-- ARGV   1 prefix; 2 packed: batch, part (its number with "|")
-- reply  1 when there is more to unpack
local head = call('LINDEX', KEYS[1], 0)
if head and string.sub(head, 1, #REQ.part) == REQ.part then call('LPOP', KEYS[1]) end
if call('EXISTS', KEYS[1]) == 0 then call('LREM', KEYS[2], 1, REQ.batch) end
return call('EXISTS', KEYS[2])
