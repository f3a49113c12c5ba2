--@ then: packing folding writing
-- flush: give places to what was queued, then write what changed.
local function place_one(push)
  local queue, version, task = push[1], push[2], push[3]
  task.q = call('INCR', P .. 'seq')
  local name, key = task.run .. '.' .. task.idx, M.list_key(queue, version)
  if call('SISMEMBER', P .. 'paused', queue) == 1 then key = P .. 'held:' .. queue .. '@' .. version end
  call('ZADD', M.pending_key(queue, version), task.q, name)
  call('RPUSH', key, name .. '@' .. string.format('%.0f', task.q))
end

function M.place_all()
  local pushes, lists = M.pushes, {}
  M.pushes = {}
  if #pushes == 0 then return end
  if #pushes == 1 then return place_one(pushes[1]) end
  local seq = call('INCRBY', P .. 'seq', #pushes) - #pushes
  for n, push in ipairs(pushes) do
    local queue, version, task = push[1], push[2], push[3]
    task.q = seq + n
    local name = queue .. '@' .. version
    local list = lists[name]
    if not list then
      list = { key = M.list_key(queue, version), pending = M.pending_key(queue, version), entries = {}, scores = {} }
      if call('SISMEMBER', P .. 'paused', queue) == 1 then list.key = P .. 'held:' .. queue .. '@' .. version end
      lists[name] = list
    end
    local label = task.run .. '.' .. task.idx
    list.entries[#list.entries + 1] = label .. '@' .. string.format('%.0f', task.q)
    list.scores[#list.scores + 1] = task.q
    list.scores[#list.scores + 1] = label
  end
  for _, list in pairs(lists) do
    for at = 1, #list.entries, 500 do
      local last = min(at + 499, #list.entries)
      call('ZADD', list.pending, unpack(list.scores, 2 * at - 1, 2 * last))
      call('RPUSH', list.key, unpack(list.entries, at, last))
    end
  end
end
