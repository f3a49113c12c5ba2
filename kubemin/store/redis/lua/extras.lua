-- extras: what a single task has beside its state; goes on from solo.lua.
function M.solo_stopped(task)
  return band(task.f or 0, STOPPING) ~= 0 and task.c or nil
end

-- What a single task has beside its work; one that cannot be read has nothing.
function M.extra(task)
  local known, extra = pcall(cjson.decode, task.x or '{}')
  return known and type(extra) == 'table' and extra or {}
end

function M.solo_retry(task)
  local given = M.extra(task).retry
  if type(given) ~= 'table' or type(given.limit) ~= 'number' then return nil end
  local causes = {}
  for _, state in ipairs(type(given.causes) == 'table' and given.causes or { 'failed', 'timeout' }) do causes[state] = true end
  return {
    limit = given.limit, delay = given.delay or 5, factor = given.factor or 2, max_delay = given.max_delay or 300,
    causes = causes,
  }
end
