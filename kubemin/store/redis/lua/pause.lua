-- Pause or resume a queue: its entries move to a list that nobody pops, and back, in order.
-- KEYS   1 the `paused` set; then for each version of records: list, held
-- ARGV   1 prefix; 2 packed: queue, on
-- reply  1
if REQ.on then call('SADD', KEYS[1], REQ.queue) else call('SREM', KEYS[1], REQ.queue) end
for n = 2, #KEYS, 2 do
  local from, to = KEYS[n], KEYS[n + 1]
  if not REQ.on then from, to = to, from end
  if call('EXISTS', from) == 1 then
    if call('EXISTS', to) == 0 then
      call('RENAME', from, to)
    else
      for _, entry in ipairs(call('LRANGE', from, 0, -1)) do call('RPUSH', to, entry) end
      call('DEL', from)
    end
  end
end
return 1
