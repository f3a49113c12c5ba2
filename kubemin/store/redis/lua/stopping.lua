-- stopping: cancel, replace or time out a run, and concurrency keys, which may replace one.
function M.stop_run(run, cause)
  if run.dl then call('ZREM', P .. 'deadlines' .. M.mark(run.v), run.id) end
  if run.du then call('ZREM', P .. 'due' .. M.mark(run.v), 'r' .. run.id) end
  run.st, run.dl, run.du = cause, nil, nil
  if run.ck and not run.h then
    call('ZREM', P .. 'waiters:' .. run.ck, run.id)
    run.ck = nil
  end
  M.touch_run(run)
  M.tell_event('cancelling', run, nil, cause)
  if run.g > 0 then
    M.release_if_ready(run)
    M.later('stop', run.id)
  end
end

-- Queued tasks of a stopped run end, and those that wait for their retry; from idx `pos`.
function M.stop(id, _, pos)
  local run = M.run(id)
  if run.s >= COMPLETED then return end
  local upto = min(run.nx, pos + max(M.budget(), 1))
  local indexes = {}
  for idx = pos, upto - 1 do indexes[#indexes + 1] = idx end
  M.preload(id, indexes)
  for _, idx in ipairs(indexes) do
    local task = M.tasks[id .. '.' .. idx]
    if task and (task.s == QUEUED or (task.s == WAITING and task.d)) then
      local cause = M.stopped(run, task)
      if cause then M.end_task(run, task, CANCELLED, cause) end
    end
  end
  M.spend(upto - pos)
  if upto < run.nx then M.later('stop', id, 0, upto) end
end

-- Who has a concurrency key. A holder that cannot be read is put aside and hands it over; one that was deleted, or had ended,
-- let go of nothing.
local function holder_of(key)
  local holder = call('HGET', P .. 'holders', key)
  local known = holder and M.guarded(holder, M.look_at, holder)
  if holder and not known then
    holder = call('HGET', P .. 'holders', key)
    known = holder and M.guarded(holder, M.look_at, holder)
  end
  return known and known.s < COMPLETED and holder or nil
end

-- A run that is due takes its concurrency key, or waits for it, or replaces those that have it.
function M.acquire(run)
  if not run.ck or run.h then return end
  local holder = holder_of(run.ck)
  if holder == run.id then return end
  if not holder then return M.take_key(run) end
  run.pl = run.pl or call('INCR', P .. 'turn')
  call('ZADD', P .. 'waiters:' .. run.ck, run.pl, run.id)
  if run.po ~= 'replace' then return end
  local others = call('ZRANGE', P .. 'waiters:' .. run.ck, 0, 99)
  others[#others + 1] = holder
  for _, id in ipairs(others) do
    local other = id ~= run.id and M.guarded(id, M.look_at, id)
    local known = other and not M.is_newer(other) -- a newer one is left to end by itself
    if known and not other.st and other.s < COMPLETED then M.stop_run(other, 'replaced') end
  end
end
