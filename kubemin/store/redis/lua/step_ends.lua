-- step_ends: the plain end of a step; goes on from steps.lua.
-- Nil: the end is the engine's.
function S.finish(task, name, at)
  local dot = find(task, '.', 1, true)
  local id, idx, after = sub(task, 1, dot - 1), sub(task, dot + 1), needed_by(ARGV[at + 3])
  local run = runs[id]
  local found = redis.pcall('HMGET', P .. 'tasks:' .. id, 'h', idx, unpack(after))
  local live = found[1] and match(run and run.live or found[1], '^%d+$')
  if not live or not find(found[2] or '', '^r%d+ ' .. sub(name, #task + 2) .. ' ') then return nil end
  local left = {}
  for n, other in ipairs(after) do
    left[n] = tonumber(match(run and run.tasks[other] or found[n + 2] or '', '^w(%d+)$'))
    if not left[n] or left[n] < 1 then return nil end
  end
  local record = tonumber(live) == 1 and plain_run(id, RUNNING) or nil
  if tonumber(live) == 1 and not record then return nil end
  local output = ARGV[at + 2]
  if output ~= '' and type(redis.pcall('HSET', P .. 'out:' .. id, idx, output)) == 'table' then return nil end
  run = changed(id, live)
  run.live, run.record = run.live - 1, record
  local fields = run.fields
  fields[#fields + 1] = idx
  fields[#fields + 1] = ARGV[at + 1]
  for n, other in ipairs(after) do
    run.tasks[other] = left[n] > 1 and 'w' .. (left[n] - 1) or 'q' .. now
    if left[n] == 1 then
      ready[after.queue] = ready[after.queue] or {}
      table.insert(ready[after.queue], id .. '.' .. other)
    end
  end
  return 'C'
end
