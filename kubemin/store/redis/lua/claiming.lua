--@ then: repeating
-- claiming: the slow half of claims: steps of workflows, and single tasks that were queued before. The lock comes first
-- and `pending` decides: an entry of a task that is queued no more is dropped.
-- What a worker is told: [TASK@TOKEN, work, state, extra] of a single task ("q…": in its first life, else its attempt);
-- [TASK@TOKEN, attempt, definition, node, item, workflow, round, scheduled at] of a step.
local function shown_step(run, task, name)
  return {
    name, (task.a or 0) + 1, run.d, task.p or task.idx, task.i or -1, run.W, run.R,
    run.sc and string.format('%.0f', run.sc) or false,
  }
end

-- The number of its place, which no other task has; a new one where it had that before and gave it back, or a higher one: the counter
-- goes back when a fail-over loses writes.
local function token_of(seq, task)
  local before = task.k or -1
  if seq > before then return seq end
  return max(call('INCR', P .. 'seq'), before + 1)
end

local function take_solo(id, seq, found)
  local task = M.read_state(found[2])
  if task.s ~= QUEUED then return nil end
  local claim = { kind = 2, token = token_of(seq, task) }
  return claim, { '', found[1], tostring((task.a or 0) + 1), found[3] }
end

local function take_step(id, idx, seq)
  if not M.find_run(id) and not call('ZSCORE', P .. 'runs', id) then return nil end -- an entry of nothing
  local run = M.run(id)
  if run.s >= COMPLETED then return nil end
  local task = M.task(id, idx)
  if task.s ~= QUEUED then return nil end
  local stopped = M.stopped(run, task)
  if stopped then
    M.end_task(run, task, CANCELLED, stopped)
    return nil
  end
  local token = token_of(seq, task)
  M.unlist(run, task)
  M.begin(run, task, token)
  return { kind = 0, token = token, always = band(task.f or 0, ALWAYS) ~= 0 }, shown_step(run, task, '')
end

-- The claim as text, whether it was the last to be taken, whether the entry goes back to the head.
function M.take(entry, pending, found, reply)
  local id, number, text = string.match(entry, '^(%w+)%.(%d+)@(%d+)$')
  local idx, seq, name = tonumber(number), tonumber(text), id .. '.' .. number
  if M.leave(id, idx, pending, found and found[2]) then return nil end
  local alone = M.guarded(id, M.goes_alone, id, idx, found)
  if alone and #reply > 3 then return nil, true, true end
  local lock = 'lock:{workflow:queue}:' .. name
  if not call('SET', lock, ARGV[6] .. text, 'NX', 'PX', ARGV[7]) then
    if call('ZSCORE', pending, name) then M.guarded(id, M.postpone, id, idx, pending) end
    return nil
  end
  local claim, told
  if call('ZREM', pending, name) == 1 then
    if found and found[2] then
      claim, told = M.guarded(id, take_solo, id, seq, found)
    else
      claim, told = M.guarded(id, take_step, id, idx, seq)
    end
  else
    M.guarded(id, M.seek_place, id, idx, found)
  end
  if not claim then
    call('DEL', lock)
    return nil
  end
  if claim.token ~= seq then
    call('SET', lock, ARGV[6] .. string.format('%.0f', claim.token), 'XX', 'PX', ARGV[7])
  end
  claim.name, claim.started, claim.request = name, NOW, ARGV[3]
  told[1] = string.format('%s@%.0f', name, claim.token)
  reply[#reply + 1] = told
  return slots.claim_text(claim), alone
end
