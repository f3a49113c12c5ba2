--@ top: slots core rules queue solo settle fanout building stopping outcome flush aside
--@ fenced
-- Tasks that were claimed and that no slot holds, because its record was deleted: queued again, as when a node is lost.
-- Their locks are left to lapse: whoever ran them may still be at it until then.
-- KEYS   1 slots, 2 the mark that such a search is due
-- ARGV   1 prefix; 2 packed: tasks [[run, idx]…] that look so, done (the mark, when these were the last ones)
-- reply  [TASK…] queued again, then common
local held = {}
for _, name in ipairs(call('SMEMBERS', KEYS[1])) do
  local slot = slots.parse(call('GET', P .. 'slot:' .. name))
  if slot.strange then return M.reply({}) end -- nobody knows what it holds; its worker's end tells
  for _, claim in ipairs(slot.c) do held[claim.name] = true end
end

local function take_back(id, idx)
  local run = M.find_run(id)
  local task = run and M.find_task(id, idx) or not run and M.solo(id)
  if not task or M.is_aside(run) then return false end
  if run then
    local made = task.p or M.plan(run, idx).k == 'task' -- by a claim; fan-outs run without one
    if not made or run.s >= COMPLETED or task.s ~= RUNNING then return false end
    M.touch(task)
  else
    local pending = M.pending_key(task.u or 'default', task.v)
    if task.s ~= QUEUED or call('ZSCORE', pending, id .. '.0') then return false end
    task.s = RUNNING
    M.save_solo(task)
  end
  return M.charge(run, task, 'node-lost')
end

local requeued = {}
for _, found in ipairs(REQ.tasks) do
  local name = found[1] .. '.' .. found[2]
  if not held[name] and M.guarded(found[1], take_back, found[1], found[2]) then requeued[#requeued + 1] = name end
end
M.settle(REQ.slice)
M.flush()
if REQ.done and call('GET', KEYS[2]) == REQ.done then call('DEL', KEYS[2]) end
return M.reply(requeued)
