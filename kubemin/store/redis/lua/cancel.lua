--@ top: slots core rules queue solo settle fanout building stopping outcome flush aside
-- Stop a run: what waits is cancelled, what runs is to be stopped (`renew` tells its node).
-- KEYS   1 the run's record
-- ARGV   1 prefix; 2 packed: id, cause
-- reply  1 done, 0 was cancelled or stopped already, "?" no such run, or the state it ended in
if M.runs[REQ.id] == nil and not pcall(M.look_at, REQ.id) then M.guarded(REQ.id, M.look_at, REQ.id) end -- it is put aside
local run = M.find_run(REQ.id)
if run then
  if run.s >= COMPLETED then return M.reply(run.s == CANCELLED and 0 or NAMES[run.s]) end
  if run.st then return M.reply(0) end
  M.stop_run(run, REQ.cause)
  M.settle(REQ.slice)
  return M.reply(1)
end
local task = M.solo(REQ.id)
if not task then
  local node = call('HGET', P .. 'coming', REQ.id)
  if not node then return M.reply('?') end
  if string.sub(node, 1, 7) == 'cancel ' then return M.reply(0) end
  call('HSET', P .. 'coming', REQ.id, 'cancel ' .. node) -- its node ends it, or it is cancelled when it is here
  return M.reply(1)
end
if task.s >= COMPLETED then return M.reply(task.s == CANCELLED and 0 or NAMES[task.s]) end
if band(task.f or 0, STOPPING) ~= 0 then return M.reply(0) end
local name = REQ.id .. '.0'
local waits = task.s == WAITING or call('ZSCORE', M.pending_key(task.u or 'default', task.v), name)
if waits then
  M.end_solo(task, CANCELLED, REQ.cause)
  return M.reply(1)
end

-- It runs: the claim of its slot carries the wish, so that finishing costs no look-up.
local function mark(slot_name)
  local key = P .. 'slot:' .. slot_name
  local raw = call('GET', key)
  if not raw or raw == 'retired' then return false end
  local slot = slots.parse(raw) -- of a strange one nothing is claimed
  for _, claim in ipairs(slot.c) do
    if claim.id == REQ.id then
      claim.stop = REQ.cause
      call('SET', key, slots.text(slot))
      return true
    end
  end
  return false
end

local lock = call('GET', 'lock:{workflow:queue}:' .. name)
local holder = lock and string.match(lock, 'slot=(%S+)')
if not (holder and mark(holder)) then
  for _, slot_name in ipairs(call('SMEMBERS', P .. 'slots')) do
    if mark(slot_name) then break end
  end
end
task.f, task.c = bor(task.f or 0, STOPPING), REQ.cause
M.save_solo(task)
M.solo_event('cancelling', task, REQ.cause)
return M.reply(1)
