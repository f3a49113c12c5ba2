--@ then: folding step_ends step_claims
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

local function save(id, run, event)
  call('HSET', P .. 'run:' .. id, 'r', pack_run(run))
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
