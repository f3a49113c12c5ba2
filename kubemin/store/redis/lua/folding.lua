-- folding: a run of few tasks that has ended keeps its tasks and their outputs in one field of its record, t: packed [[IDX, record…],
-- [IDX, output…]]. As keys of their own they take twice the memory, until the run is pruned; for more it would cost 1 % of their pace.
-- unfolding.lua reads it.
local folding_left = 1000000 -- bytes that one call reads for it

-- Of a run that has ended, with nothing of it in anybody's hands.
local function fold(id, nodes)
  local tasks, outputs = P .. 'tasks:' .. id, P .. 'out:' .. id
  call('HDEL', tasks, 'h', 'i') -- what its claims and ends went by
  if nodes > 8 or folding_left <= 0 then return end
  local records, texts, size = call('HGETALL', tasks), redis.pcall('HGETALL', outputs), 0
  if not records[1] or texts.err then return end
  for n = 2, #records, 2 do size = size + #records[n] end
  for n = 2, #texts, 2 do size = size + #texts[n] end
  folding_left = folding_left - size
  if size > 32768 then return end
  call('HSET', P .. 'run:' .. id, 't', cmsgpack.pack({ records, texts }))
  call('DEL', tasks, outputs)
end
