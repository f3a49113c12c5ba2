-- claiming: takes entries from lists until `limit` tasks are claimed. The lock comes first and `pending` decides: an entry
-- of a task that is queued no more is dropped, one whose lock a stranger holds is looked at again after a second.
local claims = {}

local function lock_of(name, token)
  return call('SET', 'lock:{workflow:queue}:' .. name, REQ.lock .. token, 'NX', 'PX', REQ.ttl)
end

local function take_solo(id, seq, queue, version, found)
  local known, state = pcall(cmsgpack.unpack, found[2])
  if not known then return E().spoil(id, found[2]) end
  if state.s ~= 1 then return nil end
  local token = math.max(seq, (state.k or -1) + 1)
  local plain = not (state.a or state.R or state.f or state.y or state.l or state.z)
  local claim = {
    id, 0, token, NOW, plain and 1 or 2, state.Q, state.u or false, false, REQ.n, REQ.place, state.S or false,
    state.v or false,
  }
  return claim, found
end

local function take_step(id, idx, seq)
  local engine_ = E()
  local run, task = engine_.find_run(id), engine_.find_task(id, idx)
  if not run or not task or task.s ~= 1 then return nil end
  local stopped = engine_.stopped(run, task)
  if stopped then
    engine_.end_task(run, task, 6, stopped)
    return nil
  end
  local token = math.max(seq, (task.k or -1) + 1)
  engine_.unlist(run, task)
  engine_.begin(run, task, token)
  local always = bit.band(task.f or 0, 8192) ~= 0
  return { id, idx, token, NOW, 0, false, false, false, REQ.n, REQ.place, always, false }
end

local function take(entry, queue, list_number)
  local id, number, text = string.match(entry, '^(%w+)%.(%d+)@(%d+)$')
  if not id then return end
  local idx, seq, name = tonumber(number), tonumber(text), id .. '.' .. number
  local pending = KEYS[list_number + 1]
  local found = idx == 0 and call('HMGET', P .. 'run:' .. id, 'w', 's', 'x') or nil
  if not lock_of(name, text) then
    if call('ZSCORE', pending, name) then E().postpone(id, idx, pending) end
    return
  end
  local claim
  if call('ZREM', pending, name) == 1 then
    if found and found[2] then claim = take_solo(id, seq, queue, 1, found) else claim = take_step(id, idx, seq) end
  end
  if not claim then
    call('DEL', 'lock:{workflow:queue}:' .. name)
    return
  end
  if claim[3] ~= seq then
    call('SET', 'lock:{workflow:queue}:' .. name, REQ.lock .. string.format('%.0f', claim[3]), 'XX', 'KEEPTTL')
  end
  slot.c[#slot.c + 1] = claim
  claims[#claims + 1] = { claim, found }
end

local function take_from(queue, list_number)
  while #claims < REQ.limit do
    local wanted = REQ.limit - #claims
    local entries = wanted == 1 and { call('LPOP', KEYS[list_number]) } or call('LPOP', KEYS[list_number], wanted)
    if not entries or not entries[1] then return end
    for _, entry in ipairs(entries) do take(entry, queue, list_number) end
    if M then
      M.settle(REQ.slice)
      M.flush()
    end
  end
end

if REQ.entry and REQ.limit > 0 then take(REQ.entry[1], REQ.queues[REQ.entry[2]], 2 * REQ.entry[2]) end
for n, queue in ipairs(REQ.queues) do
  if #claims >= REQ.limit then break end
  take_from(queue, 2 * n)
end
if M then
  M.settle(REQ.slice)
  M.flush()
end
local told = {}
for n, claimed in ipairs(claims) do told[n] = shown(claimed[1], claimed[2]) end
if #slot.e >= 32 then
  call('RPUSH', P .. 'ended', unpack(slot.e))
  slot.e = {}
end
slot.n = REQ.n
call('SET', slot_key, cmsgpack.pack(slot))
local left_over = (M and (M.left or M.fans)) and 1 or 0
return { 'OK', slot.v, told, left_over, M and M.fans or {}, M and M.events or {} }
