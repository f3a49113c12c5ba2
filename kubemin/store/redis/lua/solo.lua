--@ then: extras
-- solo: single tasks. One hash is run and task: w work (JSON), x what it has beside it (JSON), o output, s its state, packed:
-- as a task's record, and S submitted (where it is not Q), R round (where above 1), u queue (where not default), v version.
-- Queued is what stands in `pending`; running what was claimed and has not ended: a claim writes no record.
M.solos = {}

-- "qINSTANT VERSION QUEUE" is the short form of a task that is queued for the first time.
function M.read_state(raw)
  if string.byte(raw) ~= 113 then return M.sound(unpack_one(raw)) end
  local at, version, queue = string.match(raw, '^q(%d+) (%d+) (.*)$')
  version = tonumber(version)
  return {
    s = QUEUED, Q = tonumber(at), u = queue ~= 'default' and queue or nil, v = version > 1 and version or nil,
  }
end

function M.solo(id)
  local found = call('HMGET', P .. 'run:' .. id, 's', 'x')
  local task = found[1] and M.read_state(found[1])
  if not task then return nil end
  if M.is_newer(task) then M.refuse_newer(id, task) end
  task.run, task.idx, task.x = id, 0, found[2]
  return task
end

function M.save_solo(task)
  if not task.zz then
    task.zz = true
    M.solos[#M.solos + 1] = task
  end
end

function M.write_solos()
  for _, task in ipairs(M.solos) do
    local id, extra = task.run, task.x
    task.run, task.idx, task.x, task.zz, task.q = nil, nil, nil, nil, nil
    call('HSET', P .. 'run:' .. id, 's', pack(task))
    task.run, task.idx, task.x = id, 0, extra
  end
  M.solos = {}
end

function M.solo_event(event, task, cause, message)
  local seconds = (task.E or 0) > (task.B or NOW) and (task.E - task.B) / 1000000 or 0
  local waited = task.B and task.Q and max(task.B - task.Q, 0) / 1000000 or -1
  M.events[#M.events + 1] = cjson.encode({
    event, task.run, '', 0, -1, 0, NAMES[task.s], cause or task.c or '', task.a or 0, message or '', '', seconds, waited,
  })
end

function M.end_solo(task, state, cause, message)
  if task.s == QUEUED then M.unplace(task.u or 'default', task.v, task) end
  M.unset_due(task)
  task.S = task.S or task.Q
  task.s, task.c, task.E = state, cause, NOW
  task.f = M.clear(task.f, STOPPING)
  M.save_solo(task)
  call('RPUSH', P .. 'ended', task.run .. string.format(' %.0f', NOW))
  local is_call = task.x and string.find(task.x, '"label":"on-failure"', 1, true)
  if (state == FAILED or state == TIMEOUT) and not is_call then M.owe_call(task.run, task.R or 1, task.v) end
  if cause == 'crash' then M.solo_event('quarantined', task, cause, message) end
  M.solo_event('finished', task, cause, message)
end

function M.queue_solo(task)
  M.unset_due(task)
  task.S = task.S or task.Q
  task.s, task.Q = QUEUED, NOW
  M.push(task.u or 'default', task.v, task)
  M.save_solo(task)
end
