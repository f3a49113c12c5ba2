-- settle: draws the consequences of ends, as far as `budget` records reach; what is left becomes ripples (cursors).
local work, head, tail, budget = {}, 1, 0, 0

function M.later(kind, id, idx, pos)
  tail = tail + 1
  work[tail] = { kind, id, idx or 0, pos or 0 }
end

function M.budget() return budget end
function M.spend(count) budget = budget - count end

function M.leave_ripple(run, kind, idx, pos)
  M.ripples[#M.ripples + 1] = { run.v, string.format('%s %s %d %d %d', kind, run.id, idx, pos, run.R) }
end

local SERVERS = { 'OOM ', 'MISCONF', 'READONLY', 'NOREPLICAS', 'NOPERM', 'MASTERDOWN' }

local function problem_of(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  for _, word in ipairs(SERVERS) do
    if string.find(text, word, 1, true) then error(problem, 0) end -- the server's own, not of a record
  end
  return string.match(text, 'KUBEMIN_MISSING (.*)') or 'its record makes no sense: ' .. text
end

-- Whatever is wrong with the records of run `id` ends that run alone (aside.lua). Nil then; also for a newer run, which stays.
function M.guarded(id, act, ...)
  local done, one, two = pcall(act, ...)
  if done then return one, two end
  local why = problem_of(one)
  if not string.find(why, 'KUBEMIN_NEWER', 1, true) then M.put_aside(id, why) end
  return nil
end

function M.is_aside(run) return run and run.st == 'corrupt' and run.s == FAILED end

function M.forget_work(id)
  local kept = 0
  for n = head, tail do
    local step = work[n]
    work[n] = nil
    if step[2] ~= id then
      work[head + kept] = step
      kept = kept + 1
    end
  end
  tail = head + kept - 1
end

function M.settle(limit)
  budget = limit
  while work[head] and budget > 0 do
    local step = work[head]
    work[head] = nil
    head = head + 1
    if not M.is_aside(M.runs[step[2]]) then M.guarded(step[2], M[step[1]], step[2], step[3], step[4]) end
  end
  while work[head] do
    local step = work[head]
    work[head] = nil
    head = head + 1
    M.leave_ripple(M.run(step[2]), step[1], step[3], step[4])
  end
  M.refill()
end

-- Why this task must not go on, if so.
function M.stopped(run, task)
  if not run.st or band(task.f or 0, ALWAYS) ~= 0 then return nil end
  return run.st
end

function M.tell_event(event, run, task, cause, message)
  local seconds = 0
  if event == 'started' and task then
    seconds = max(NOW - (task.Q or NOW), 0) / 1000000 -- that it waited
  elseif task and (task.E or 0) > (task.B or NOW) then
    seconds = (task.E - task.B) / 1000000
  end
  M.events[#M.events + 1] = cjson.encode({
    event, run.id, run.W, task and (task.p or task.idx) or -1, task and (task.i or -1) or -1, task and task.idx or -1,
    NAMES[(task or run).s], cause or (task or run).c or '', task and (task.a or 0) or 0, message or '', run.d, seconds, -1,
  })
end

local ENDED = { [SKIPPED] = 'skipped', [CANCELLED] = 'cancelled' }

function M.end_task(run, task, state, cause, message)
  local was_queued = task.s == QUEUED
  M.unset_due(task)
  task.s, task.c, task.E = state, cause, NOW
  M.touch(task)
  if was_queued then M.unlist(run, task, true) end
  local plan = M.plan_of(run, task)
  local bad = state == FAILED or state == TIMEOUT
  if not run.c and bad and (plan.k == 'task' or plan.k == 'fanout') then run.c = cause or NAMES[state] end
  if plan.k ~= 'gate' then
    M.tell_event(cause == 'crash' and 'quarantined' or ENDED[state] or 'finished', run, task, nil, message)
  end
  run.l = run.l - 1
  M.touch_run(run)
  if task.i then
    M.child_ended(run, task)
  elseif (plan.D or 0) > 0 then
    M.later('tell', run.id, task.idx)
  end
  if run.l == 0 and run.s < COMPLETED then M.end_run(run) end
end

-- `onFailure`: hooks.py pays. Its own failure starts no other.
function M.owe_call(id, round, version)
  if REQ.hook then call('RPUSH', P .. 'hooks' .. M.mark(version), string.format('%s %d', id, round)) end
end

function M.end_run(run)
  M.touch_run(run)
  if run.dl then call('ZREM', P .. 'deadlines' .. M.mark(run.v), run.id) end
  if run.du then call('ZREM', P .. 'due' .. M.mark(run.v), 'r' .. run.id) end
  run.s, run.c = M.run_end(run.st, run.c)
  run.E, run.dl, run.du = NOW, nil, nil
  call('RPUSH', P .. 'ended', run.id .. string.format(' %.0f', NOW))
  if (run.s == FAILED or run.s == TIMEOUT) and run.W ~= 'on-failure' then M.owe_call(run.id, run.R, run.v) end
  M.tell_event('finished', run)
  local key, held = run.ck, run.h
  run.ck, run.h = nil, nil
  if key then call('ZREM', P .. 'waiters:' .. key, run.id) end
  if key and held then M.hand_over(key, run.id) end
end

function M.hand_over(key, id)
  call('HDEL', P .. 'holders', key)
  local next = call('ZRANGE', P .. 'waiters:' .. key, 0, 0)[1]
  while next do
    local run = M.guarded(next, M.look_at, next)
    if run and M.is_newer(run) then return M.leave_ripple(run, 'grant', 0, 0) end
    if run and run.s < COMPLETED then return M.grant(next) end
    call('ZREM', P .. 'waiters:' .. key, next)
    next = call('ZRANGE', P .. 'waiters:' .. key, 0, 0)[1]
  end
end

-- The turn of a run that waits for its concurrency key; again its place in line, when somebody was faster.
function M.grant(id)
  local run = M.run(id)
  M.acquire(run)
  M.release_if_ready(run)
end

function M.take_key(run)
  call('HSET', P .. 'holders', run.ck, run.id)
  call('ZREM', P .. 'waiters:' .. run.ck, run.id)
  run.h = 1
  M.touch_run(run)
end

local function dependents(run, idx, plan, from, upto)
  local found = {}
  for n = from, upto - 1 do
    local chunk = math.floor(n / CHUNK)
    local list = chunk == 0 and plan.d or M.plan(run, idx .. '/' .. chunk)
    local at = 2 * (n - chunk * CHUNK)
    found[#found + 1] = { list[at + 1], list[at + 2] }
  end
  return found
end
M.dependents = dependents

function M.tell(id, idx, pos)
  local run, task = M.run(id), M.task(id, idx)
  local plan = M.plan(run, idx)
  local upto = min(plan.D, pos + max(budget, 1))
  local found = dependents(run, idx, plan, pos, upto)
  local indexes = {}
  for n, edge in ipairs(found) do indexes[n] = edge[1] end
  M.preload(id, indexes)
  for _, edge in ipairs(found) do
    local other, marks = M.task(id, edge[1]), edge[2]
    other.f = bor(other.f or 0, M.passes(task.s, task.c, task.f or 0, marks))
    other.o = other.o - 1
    M.touch(other)
    if other.o == 0 then M.decide(run, other) end
  end
  budget = budget - (upto - pos)
  if upto < plan.D then M.later('tell', id, idx, upto) end
end

-- All its needs have ended.
function M.decide(run, task)
  local plan = M.plan(run, task.idx)
  if band(task.f or 0, KEPT) ~= 0 then
    task.f = M.clear(task.f, KEPT)
    M.touch(task)
    if (plan.D or 0) > 0 then M.later('tell', run.id, task.idx) end
    return
  end
  local state, cause
  if plan.k == 'join' then
    state, cause = M.join_end(plan.w, task.f or 0, run.st)
  else
    state, cause = M.decision(plan.w, task.f or 0, run.st)
  end
  if state then
    M.end_task(run, task, state, cause)
  elseif plan.k == 'gate' then
    M.end_task(run, task, COMPLETED)
  elseif plan.k == 'fanout' then
    M.start_fan(run, task)
  else
    M.enqueue(run, task)
  end
end
