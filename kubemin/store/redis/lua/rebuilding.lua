-- rebuilding: a run's tasks made again, for `retry`; goes on from building.lua.
-- In topological order: reset a node or keep it, and tell those that need it what it means for them (ro, rh, rf).
function M.rebuild(id, idx, pos)
  local run = M.run(id)
  while idx < run.N do
    local task, plan = M.task(id, idx), M.plan(run, idx)
    if pos == 0 then M.rebuild_node(run, task, plan, idx) end
    local upto = min(plan.D or 0, pos + max(M.budget(), 1))
    local found = M.dependents(run, idx, plan, pos, upto)
    for _, edge in ipairs(found) do M.rebuild_edge(run, task, edge[1], edge[2]) end
    M.spend(upto - pos + 1)
    if upto < (plan.D or 0) then return M.later('rebuild', id, idx, upto) end
    idx, pos = idx + 1, 0
    if M.budget() <= 0 and idx < run.N then return M.later('rebuild', id, idx, 0) end
  end
  M.built(run)
end

function M.rebuild_node(run, task, plan, idx)
  local fresh = task.rr ~= run.R
  local open, heard = fresh and 0 or task.ro, fresh and 0 or task.rh
  local forced = run.ag == idx or (not fresh and task.rf == 1)
  task.rr, task.rf = run.R, forced and 1 or 0
  if forced or task.s ~= COMPLETED then
    M.reset(task, open, bor(heard, forced and plan.k == 'fanout' and FRESH or 0))
    run.l = run.l + 1
    M.touch_run(run)
  else
    task.f = bor(band(task.f or 0, SETTLED + ALWAYS), heard, open > 0 and KEPT or 0)
    task.o = open
    M.touch(task)
  end
end

function M.rebuild_edge(run, task, idx, marks)
  local other = M.task(run.id, idx)
  if other.rr ~= run.R then other.rr, other.ro, other.rh, other.rf = run.R, 0, 0, 0 end
  if task.s == WAITING or band(task.f or 0, KEPT) ~= 0 then
    other.ro = other.ro + 1
  else
    local heard = M.passes(task.s, task.c, task.f or 0, marks)
    other.rh = bor(other.rh, heard)
  end
  if task.rf == 1 then other.rf = 1 end
  M.touch(other)
end
