--@ then: folding step_claims
-- steps: plain steps, straight through: a first attempt that completed in a run that nobody stops, whose dependents start on
-- success and have heard of nothing bad. Made when the first of them is met. In the hash of such a run's tasks (building.lua: x):
--   h  how many are live, after "w" while none has begun; '' or none: all of this run goes through the engine
--   i  what a claim tells of its run: "VERSION DEFINITION ROUND SCHEDULED WORKFLOW"
--   IDX  "wOPEN" waits, "qINSTANT" is queued, "gINSTANT TOKEN" was given back, "rQUEUED TOKEN STARTED PLACE" runs; else packed,
--        and the engine's
-- All is read and checked before anything is changed; what does not fit is left as it is, for the engine.
local function plain_steps()
local S, runs, touched, ready, edges = {}, {}, {}, {}, {}

-- The record of a run that begins, or that has no other end than `completed`.
local function plain_run(id, state)
  local raw = redis.pcall('HGET', P .. 'run:' .. id, 'r')
  local known, run = pcall(cmsgpack.unpack, type(raw) == 'string' and raw or '')
  local fits = known and type(run) == 'table' and run.x and run.s == state and not run.st and not run.c
  return fits and (state == WAITING or not run.ck) and run or nil -- who holds a concurrency key hands it over at its end
end

local function save(id, run, event, folded)
  if folded then
    call('HSET', P .. 'run:' .. id, 'r', pack_run(run), 't', folded)
  else
    call('HSET', P .. 'run:' .. id, 'r', pack_run(run))
  end
  local state = event == 'started' and 'running' or 'completed'
  events[#events + 1] = cjson.encode({ event, id, run.W, -1, -1, -1, state, '', 0, '', run.d, 0, -1 })
end

-- Those that need a step: their queue, then their numbers.
local function needed_by(text)
  local found = edges[text]
  if not found then
    found = {}
    for word in string.gmatch(text, '%S+') do
      if found.queue then found[#found + 1] = word else found.queue = word end
    end
    edges[text] = found
  end
  return found
end

local function changed(id, live)
  local run = runs[id]
  if not run then
    run = { id = id, live = tonumber(live), tasks = {}, fields = {} }
    runs[id] = run
    touched[#touched + 1] = run
  end
  return run
end

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
