-- new_run: the records of a run that was accepted; goes on from submit_run.lua. One of plain steps that has nothing to wait for
-- is written as it is after its release; any other is built by the engine.
local due = REQ.start_at and REQ.start_at > NOW and REQ.start_at or nil
local run = {
  d = REQ.hash, W = REQ.workflow, N = meta.n, s = WAITING, R = 1, S = NOW, sa = REQ.start_at,
  sc = REQ.scheduled_at, du = due, ck = REQ.ckey, po = REQ.policy, l = 1, li = {}, pa = 0, nx = meta.n, g = 0,
  T = meta.t, ky = REQ.key, v = REQ.version > 1 and REQ.version or nil,
}
local tasks, pattern = P .. 'tasks:' .. REQ.id, known[2]
local seen -- by a claim of a plain step
if meta.x and not run.v and run.N < REQ.window then
  run.x = 1
  seen = string.format('1 %s 1 %s %s', run.d, run.sc and string.format('%.0f', run.sc) or '-', run.W)
end
if run.x and pattern and not due and not run.ck and not M and run.N <= REQ.slice then
  pattern = cmsgpack.unpack(pattern)
  local fields, queued, names = pattern.w, string.format('q%.0f', NOW), {}
  for n, idx in ipairs(pattern.r) do
    fields[#fields + 1] = idx
    fields[#fields + 1] = queued
    names[n] = REQ.id .. '.' .. idx
  end
  for n = 1, #pattern.a, 2 do
    fields[#fields + 1] = pattern.a[n]
    fields[#fields + 1] = cmsgpack.pack({ s = WAITING, o = pattern.a[n + 1], f = ALWAYS })
  end
  run.l, run.g = run.N, RELEASED
  call('HSET', KEYS[1], 'r', pack_run(run))
  call('HSET', tasks, 'h', 'w' .. run.N, 'i', seen, unpack(fields))
  queue_ready(pattern.q, names)
  return plainly(1)
end
E()
run.id, run.pl = REQ.id, REQ.ckey and call('INCR', P .. 'turn') or nil
M.runs[REQ.id] = run
M.touch_run(run)
if seen then call('HSET', tasks, 'i', seen) end
if due then call('ZADD', P .. 'due' .. M.mark(run.v), due, 'r' .. run.id) end
if not due or REQ.policy == 'reject' then M.acquire(run) end
M.later('build', run.id)
M.settle(run.N <= REQ.slice and REQ.slice or 1)
return M.reply(1)
