--@ top: core solo
-- States of many runs.
-- KEYS   1 runs (names the slot; the runs follow from ARGV)
-- ARGV   1 prefix; 2 packed (empty); then ids
-- reply  for each its number, or -1
local states = {}
local byte, sub, pending = string.byte, string.sub, P .. 'pending:default'

local function by_record(id, raw)
  local known, task = pcall(M.read_state, raw)
  local state = known and task.s or 2
  if state > 1 then return state end
  local queue = (task.u or 'default') .. ((task.v or 1) > 1 and '@v' .. task.v or '')
  local waits = state == 0 or call('ZSCORE', P .. 'pending:' .. queue, id .. '.0')
  return (task.k or not waits) and 2 or 0
end

-- Most are told by a few letters: clients ask for many, and again: queued in its first life, or a record that begins with
-- its state.
local function state_of(id, raw)
  if byte(raw) == 113 and sub(raw, -10) == ' 1 default' then return call('ZSCORE', pending, id .. '.0') and 0 or 2 end
  if sub(raw, 2, 3) == '\161s' and byte(raw, 4) > 2 and byte(raw, 4) < 8 then return byte(raw, 4) end
  return by_record(id, raw)
end

local function state_of_run(raw)
  local first = byte(raw) == 222 and 4 or 2 -- after the head of its map
  local state = sub(raw, first, first + 1) == '\161s' and byte(raw, first + 2)
  if state and state < 8 then return state end
  local known, run = pcall(cmsgpack.unpack, raw)
  return known and type(run) == 'table' and run.s or 2 -- spoilt: until it is put aside
end

for n = 3, #ARGV do
  local found = call('HMGET', P .. 'run:' .. ARGV[n], 's', 'r')
  if found[1] then
    states[n - 2] = state_of(ARGV[n], found[1])
  else
    states[n - 2] = found[2] and state_of_run(found[2]) or -1
  end
end
return states
