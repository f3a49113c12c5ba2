-- rows: tasks and plans of one call; goes on from core.lua.
function M.keep(id, idx, raw)
  local task = M.read_task(raw)
  task.run, task.idx = id, idx
  M.tasks[id .. '.' .. idx] = task
  return task
end

function M.find_task(id, idx)
  local task = M.tasks[id .. '.' .. idx]
  if task then return task end
  local raw = call('HGET', P .. 'tasks:' .. id, idx)
  return raw and M.keep(id, idx, raw) or nil
end

function M.task(id, idx)
  return M.find_task(id, idx) or error('KUBEMIN_MISSING task ' .. id .. '.' .. idx .. ' is missing')
end

-- Read many at once, those that are not in memory yet.
function M.preload(id, indexes)
  local missing = {}
  for _, idx in ipairs(indexes) do
    if not M.tasks[id .. '.' .. idx] then missing[#missing + 1] = idx end
  end
  for at = 1, #missing, 200 do
    local last = min(at + 199, #missing)
    local found = call('HMGET', P .. 'tasks:' .. id, unpack(missing, at, last))
    for n = at, last do
      if found[n - at + 1] then M.keep(id, missing[n], found[n - at + 1]) end
    end
  end
end

function M.new_task(id, idx, task)
  task.run, task.idx = id, idx
  M.tasks[id .. '.' .. idx] = task
  M.touch(task)
  return task
end

function M.touch(task)
  if not task.zz then
    task.zz = true
    M.dirty[#M.dirty + 1] = task
  end
end

function M.touch_run(run)
  if not run.zz then
    run.zz = true
    M.dirtied[#M.dirtied + 1] = run
  end
end

function M.plan(run, idx)
  local known = M.plans[run.d]
  if not known then
    known = {}
    M.plans[run.d] = known
  end
  local plan = known[idx]
  if not plan then
    local raw = call('HGET', P .. 'graph:' .. run.d, idx)
    plan = unpack_one(raw or error('KUBEMIN_MISSING definition ' .. run.d .. ' is missing'))
    known[idx] = plan
  end
  return plan
end

function M.plan_of(run, task) return M.plan(run, task.p or task.idx) end
