-- unfolding: the tasks of a small run that has ended (folding.lua).
local function is_flat(list)
  for _, text in ipairs(type(list) == 'table' and list or { false }) do
    if type(text) ~= 'string' then return false end
  end
  return #list % 2 == 0
end

-- [tasks, outputs], as HGETALL tells them; nil where they have keys of their own, or cannot be read.
function M.folded(id)
  local raw = call('HGET', P .. 'run:' .. id, 't')
  local known, folded = pcall(unpack_one, raw or '')
  local sound = known and type(folded) == 'table' and is_flat(folded[1]) and is_flat(folded[2])
  return sound and folded or nil
end

-- It is to be run again.
function M.unfold(id)
  local folded = M.folded(id)
  if not folded then return end
  call('HSET', P .. 'tasks:' .. id, unpack(folded[1]))
  if folded[2][1] then call('HSET', P .. 'out:' .. id, unpack(folded[2])) end
  call('HDEL', P .. 'run:' .. id, 't')
end

-- A task's record, wherever it stands.
function M.record_of(id, idx)
  local raw = call('HGET', P .. 'tasks:' .. id, idx)
  local folded = not raw and M.folded(id)
  for n = 1, folded and #folded[1] or 0, 2 do
    if folded[1][n] == idx then raw = folded[1][n + 1] end
  end
  return raw
end
