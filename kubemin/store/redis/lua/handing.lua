-- handing: concurrency keys, from run to run.
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
