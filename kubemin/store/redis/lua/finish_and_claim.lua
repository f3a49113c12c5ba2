--@ outer: tails
--@ engine: core rules queue solo settle fanout building stopping outcome begin flush
--@ then: claiming
-- One round trip: record how attempts ended with all that follows, let go their locks, and claim what is next.
-- KEYS   1 the slot's record; then for each queue, in priority order: its list, its `pending` set. What follows from data
--        is built from the prefix: the keys of runs that are claimed, of steps that become ready; all share one hash slot.
-- ARGV   1 prefix; 2 packed request: n number, now or est (microseconds), place "node|slot", lock (value without token),
--        ttl (ms), limit, entry, out: outcomes [run, idx, token, state or -1, cause, message, detail, output or false,
--        stdout, stderr, started], tail (bytes), tails (budget), window, slice, crash_limit, loss_limit, spread, known
-- reply  [status OK | RETIRED | STALE, verdicts (C completed with nothing to follow, A accepted, D duplicate, F fenced), claims, left, fans, events]
local slot_key = KEYS[1]
local raw = call('GET', slot_key)
local slot
if raw then
  if raw == 'retired' then return { 'RETIRED' } end
  slot = cmsgpack.unpack(raw)
else
  if call('HEXISTS', P .. 'retired', REQ.instance) == 1 then return { 'RETIRED' } end
  call('SADD', P .. 'slots', REQ.slot)
  slot = { n = 0, v = '', c = {}, e = {} }
end
if REQ.n < slot.n then return { 'STALE', string.format('%.0f', slot.n) } end

NOW = REQ.now or REQ.est
local M
local function E()
  M = M or engine()
  return M
end

-- What a worker needs to know of a claim: [run, idx, token, attempt, kind, …].
local function shown(claim, found)
  local id, idx, token = claim[1], claim[2], string.format('%.0f', claim[3])
  if claim[5] > 0 then
    local known = found or call('HMGET', P .. 'run:' .. id, 'w', 's', 'x')
    local state = cmsgpack.unpack(known[2])
    return { id, idx, token, (state.a or 0) + 1, 's', known[1], known[3] }
  end
  local run, task = E().run(id), E().task(id, idx)
  return {
    id, idx, token, (task.a or 0) + 1, 'g', run.d, task.p or idx, task.i or -1, run.W, run.R, run.sc or false,
  }
end

if REQ.n == slot.n then -- repeated after a lost reply
  REQ.reads = true
  local again = {}
  for _, claim in ipairs(slot.c) do
    if claim[9] == REQ.n then again[#again + 1] = shown(claim) end
  end
  return { 'OK', slot.v, again, 1, {}, {} }
end

-- An outcome of a task that is not this slot's: a repeat after a lost acknowledgement, or fenced.
local function late(id, idx, token)
  if M then M.flush() end
  local raw_task = idx == 0 and call('HGET', P .. 'run:' .. id, 's') or call('HGET', P .. 'tasks:' .. id, idx)
  if idx == 0 and not raw_task then raw_task = call('HGET', P .. 'tasks:' .. id, 0) end
  local task = raw_task and cmsgpack.unpack(raw_task)
  if task and task.k == token and bit.band(task.f or 0, 512) ~= 0 then return 'D' end
  return 'F'
end

local unlocked, left = {}, false
local function complete(claim, out)
  local record = {
    s = 3, f = 512, a = 1, k = claim[3], Q = claim[6], B = out[11] > 0 and out[11] or claim[4], E = NOW, w = REQ.place,
    u = claim[7] or nil, D = out[7] ~= '' and out[7] or nil, S = claim[11] or nil, v = claim[12] or nil,
  }
  if out[8] then
    call('HSET', P .. 'run:' .. claim[1], 's', cmsgpack.pack(record), 'o', out[8])
  else
    call('HSET', P .. 'run:' .. claim[1], 's', cmsgpack.pack(record))
  end
  slot.e[#slot.e + 1] = claim[1] .. string.format(' %.0f', NOW)
end

local function settle(claim, out)
  local engine_ = E()
  local run, task = engine_.claimed(claim)
  task.f = bit.bor(task.f or 0, 512)
  task.k, task.w, task.D = out[3], REQ.place, out[7] ~= '' and out[7] or nil
  task.B = out[11] > 0 and out[11] or claim[4]
  if run then engine_.touch(task) else engine_.save_solo(task) end
  if out[4] < 0 then return engine_.put_back(run, task, out[5]) end
  if out[4] == 3 and out[8] then
    if run then
      call('HSET', P .. 'out:' .. claim[1], claim[2], out[8])
    else
      call('HSET', P .. 'run:' .. claim[1], 'o', out[8])
    end
  end
  engine_.attempt_ended(run, task, out[4], out[5] ~= '' and out[5] or nil, out[6])
end

local function take_outcome(out)
  for n, claim in ipairs(slot.c) do
    if claim[1] == out[1] and claim[2] == out[2] and claim[3] == out[3] then
      table.remove(slot.c, n)
      local plain = claim[5] == 1 and out[4] == 3 and not claim[8]
      if plain then complete(claim, out) else settle(claim, out) end
      if out[9] ~= '' or out[10] ~= '' or (claim[5] ~= 1 and out[4] >= 0) then
        keep_tails(out[1], out[2], out[9], out[10], out[4] == 3 and REQ.tail or 4 * REQ.tail, REQ.tails)
      end
      unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. out[1] .. '.' .. out[2]
      return plain and 'C' or 'A'
    end
  end
  return late(out[1], out[2], out[3])
end

local verdicts = {}
for n, out in ipairs(REQ.out) do verdicts[n] = take_outcome(out) end
slot.v = table.concat(verdicts)
if M then
  M.settle(REQ.slice)
  M.flush()
end
if #unlocked > 0 then call('DEL', unpack(unlocked)) end
