-- step_claims: what ended is written, and plain steps are claimed; goes on from steps.lua.
local function write_run(run)
  local fields = run.fields
  for idx, text in pairs(run.tasks) do
    fields[#fields + 1] = idx
    fields[#fields + 1] = text
  end
  local record = run.record
  if not record then
    fields[#fields + 1] = 'h'
    fields[#fields + 1] = run.live
  end
  call('HSET', P .. 'tasks:' .. run.id, unpack(fields))
  if record then
    if record.dl then call('ZREM', P .. 'deadlines', run.id) end
    record.s, record.E, record.dl, record.l, record.x = COMPLETED, tonumber(now), nil, 0, nil
    save(run.id, record, 'finished')
    fold(run.id, record.nx)
    ends[#ends + 1] = run.id
  end
end

function S.write()
  for _, run in ipairs(touched) do write_run(run) end
  for queue, names in pairs(ready) do queue_ready(queue, names) end
  runs, touched, ready = {}, {}, {}
end

-- Since when it is queued, and its token: the number of its place, which no other task has; a new one where it had that
-- before and gave it back.
local function turn_of(record, seq)
  local queued = match(record, '^q(%d+)$')
  if queued then return queued, seq end
  local since, token = match(record, '^g(%d+) (%d+)$')
  if since and tonumber(seq) <= tonumber(token) then
    seq = string.format('%.0f', math.max(call('INCR', P .. 'seq'), token + 1))
  end
  return since, seq
end

-- Nil: the entry is the engine's.
function S.claim(pending, id, idx, seq)
  if M and M.runs[id] then return nil end -- what the engine has in its hands it may have changed
  local key = P .. 'tasks:' .. id
  local found = redis.pcall('HMGET', key, 'i', idx, 'h')
  local live = found[3]
  if not live or sub(found[1] or '', 1, 2) ~= '1 ' or not find(live, '^w?%d+$') then return nil end
  local begins = string.byte(live) == 119
  local run = begins and plain_run(id, WAITING)
  if begins and not run then return nil end
  local queued, token = turn_of(found[2] or '', seq)
  if not queued then return nil end
  local lock, name = 'lock:{workflow:queue}:' .. id .. '.' .. idx, id .. '.' .. idx
  if not call('SET', lock, ARGV[6] .. token, 'NX', 'PX', ARGV[7]) then
    if call('ZSCORE', pending, name) then E().guarded(id, M.postpone, id, tonumber(idx), pending) end
    return true
  end
  if call('ZREM', pending, name) == 0 then
    call('DEL', lock)
    call('SET', P .. 'orphans', now) -- it is queued, and has lost its place (orphans.py)
    return true
  end
  local record = 'r' .. queued .. ' ' .. token .. ' ' .. now .. ' ' .. ARGV[12]
  if begins then
    run.s, run.B = RUNNING, tonumber(now)
    if run.T then
      run.dl = run.B + math.floor(run.T * 1000000)
      call('ZADD', P .. 'deadlines', string.format('%d', run.dl), id)
    end
    call('HSET', key, idx, record, 'h', sub(live, 2))
    save(id, run, 'started')
  else
    call('HSET', key, idx, record)
  end
  name = name .. '@' .. token
  taken[#taken + 1] = name .. ' 3 ' .. now .. ' ' .. number .. ' - -;'
  return true, { name, found[1], queued }
end
return S
end
