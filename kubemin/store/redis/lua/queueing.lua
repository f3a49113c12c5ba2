-- queueing: entries of plain tasks that are ready (version 1 of records) get their places, all of one queue together.
local function queue_ready(queue, names)
  local seq = call('INCRBY', P .. 'seq', #names) - #names
  local entries, scores = {}, {}
  for n, name in ipairs(names) do
    local place = string.format('%d', seq + n)
    entries[n] = name .. '@' .. place
    scores[2 * n - 1], scores[2 * n] = place, name
  end
  local list = queue == 'default' and 'workflow:queue' or 'workflow:queue:{workflow:queue}:' .. queue
  if call('SISMEMBER', P .. 'paused', queue) == 1 then list = P .. 'held:' .. queue .. '@1' end
  call('ZADD', P .. 'pending:' .. queue, unpack(scores))
  call('RPUSH', list, unpack(entries))
end
