-- writing: what one call changed is written; goes on from flush.lua.
local function write_tasks()
  local by_run = {}
  for _, task in ipairs(M.dirty) do
    local id, idx = task.run, task.idx
    local fields = by_run[id]
    if not fields then
      fields = {}
      by_run[id] = fields
    end
    task.run, task.idx, task.zz = nil, nil, nil
    fields[#fields + 1] = idx
    fields[#fields + 1] = M.pack_task(task)
    task.run, task.idx = id, idx
  end
  M.dirty = {}
  for id, fields in pairs(by_run) do
    for at = 1, #fields, 400 do
      call('HSET', P .. 'tasks:' .. id, unpack(fields, at, min(at + 399, #fields)))
    end
  end
end

-- Plain steps go on without the engine while nobody stops the run.
local function write_live(id, run)
  local plain = run.g == RELEASED and not run.st
  call('HSET', P .. 'tasks:' .. id, 'h', plain and (run.s == WAITING and 'w' or '') .. run.l or '')
end

local function write_runs()
  for _, run in ipairs(M.dirtied) do
    local id = run.id
    run.id, run.zz = nil, nil
    if run.s >= COMPLETED and not M.is_aside(run) then
      run.x = nil
      fold(id, run.nx)
    elseif run.x then
      write_live(id, run)
    end
    call('HSET', P .. 'run:' .. id, 'r', pack_run(run))
    run.id = id
  end
  M.dirtied = {}
end

local function write_ripples()
  local left = M.ripples
  M.ripples = {}
  if #left == 0 then return end
  local score = call('INCRBY', P .. 'turn', #left) - #left
  for n, ripple in ipairs(left) do call('ZADD', P .. 'ripples' .. M.mark(ripple[1]), score + n, ripple[2]) end
  M.left = true
end

function M.flush()
  M.place_all()
  M.write_solos()
  write_tasks()
  write_runs()
  for queue, delta in pairs(M.parked or {}) do call('HINCRBY', P .. 'backlog', queue, delta) end
  M.parked = false
  write_ripples()
end

-- What every operation of the engine answers: its result, whether work is left, fan-outs that wait for their items, events.
function M.reply(result)
  M.flush()
  local left = (M.left or M.fans) and 1 or 0
  return { result, left, M.fans or {}, M.events }
end
