-- deciding: what the end of a task means for those that need it.
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
