-- arriving: what all that moves here has in common: it comes once, its tokens only rise, and whoever cancelled it on its
-- way is heard.
local ARRIVED, COMING = P .. 'arrived', P .. 'coming'

-- Here already, or here before: its tombstone stays until its node has noted that it arrived.
function M.is_here(id) return call('EXISTS', P .. 'run:' .. id) == 1 or call('HEXISTS', ARRIVED, id) == 1 end

-- "=ID" or "!ID" when another run has its key: for the same, or for something else.
function M.key_taken(key, digest)
  local taken = key ~= '' and call('HGET', P .. 'keys', key)
  return taken and (string.sub(taken, 22) == digest and '=' or '!') .. string.sub(taken, 1, 20) or nil
end

-- Last of all, so that an error before has changed nothing.
function M.note_arrival(id, key, digest)
  call('HSET', ARRIVED, id, REQ.node)
  call('ZADD', P .. 'runs', 0, id)
  if key ~= '' then call('HSET', P .. 'keys', key, id .. ' ' .. digest) end
end

function M.raise_seq(floor)
  if tonumber(call('GET', P .. 'seq') or '0') < floor then call('SET', P .. 'seq', string.format('%.0f', floor)) end
end

-- True: it is to be cancelled.
function M.take_wish(id)
  local wish = call('HGET', COMING, id)
  if wish then call('HDEL', COMING, id) end
  return wish and string.sub(wish, 1, 7) == 'cancel '
end
