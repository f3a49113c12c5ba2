-- admitting: popped entries that are not for this claim: of a newer version, or of a task that goes alone.
-- A record of a newer version in a list of ours: it goes to that version's list, for nodes that know it.
function M.leave(id, idx, pending, state)
  local known, record = pcall(state and M.read_state or M.look_at, state or id)
  if not known or not record or not M.is_newer(record) then return false end
  if call('ZREM', pending, id .. '.' .. idx) == 1 then
    local queue = string.match(string.sub(pending, #P + 9), '^[^@]*')
    M.push(queue, record.v, { run = id, idx = idx })
    call('SADD', P .. 'queues', queue .. '@' .. record.v)
    M.events[#M.events + 1] = cjson.encode({ 'newer', id, '', 0, -1, idx, 'queued', '', 0, tostring(record.v), '', 0, -1 })
  end
  return true
end

local function record_of(id, idx, found)
  if not found or not found[2] then return M.find_task(id, idx) end
  local known, state = pcall(M.read_state, found[2])
  return known and state
end

-- A task of a batch that was lost with its node goes alone: what happens to it then is charged to it.
function M.goes_alone(id, idx, found)
  local task = record_of(id, idx, found)
  return task and task.A
end

-- An entry without a place: its task was claimed, or somebody deleted `pending` (orphans.py).
function M.seek_place(id, idx, found)
  local task = record_of(id, idx, found)
  if task and task.s == QUEUED then call('SET', P .. 'orphans', string.format('%.0f', NOW)) end
end
