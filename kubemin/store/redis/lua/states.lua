--@ engine: core solo
-- States of many runs. Clients ask for many, and again and again: most are told by a few letters, and whether single
-- tasks are still queued is asked for all together.
-- KEYS   1 runs (names the slot; the runs follow from ARGV)
-- ARGV   1 prefix; 2 packed (empty); then ids
-- reply  for each its number, or -1
local states, queued, places = {}, {}, {}
local byte, sub = string.byte, string.sub

local M
local function by_record(id, raw)
  M = M or engine()
  local known, task = pcall(M.read_state, raw)
  local state = known and task.s or 2
  if state > 1 then return state end
  local queue = (task.u or 'default') .. ((task.v or 1) > 1 and '@v' .. task.v or '')
  local waits = state == 0 or call('ZSCORE', P .. 'pending:' .. queue, id .. '.0')
  return (task.k or not waits) and 2 or 0
end

-- Queued in its first life, or a record that begins with the state of its end.
local function state_of(id, raw, n)
  if byte(raw) == 113 and sub(raw, -10) == ' 1 default' then
    queued[#queued + 1] = id .. '.0'
    places[#places + 1] = n
    return 0
  end
  if sub(raw, 2, 3) == '\161s' and byte(raw, 4) > 2 and byte(raw, 4) < 8 then return byte(raw, 4) end
  return by_record(id, raw)
end

-- A record begins with its state (packing.lua).
local function state_of_run(raw)
  local first = byte(raw) == 222 and 4 or 2 -- after the head of its map
  local state = sub(raw, first, first + 1) == '\161s' and byte(raw, first + 2)
  if state and state < 8 then return state end
  local known, run = pcall(cmsgpack.unpack, raw)
  return known and type(run) == 'table' and run.s or 2 -- spoilt: until it is put aside
end

-- What is asked for together is mostly of one kind: that of the last one is tried first.
local likely, other = 's', 'r'
local function look_up(id)
  local key = P .. 'run:' .. id
  local raw = call('HGET', key, likely)
  if raw then return raw end
  raw = call('HGET', key, other)
  if raw then likely, other = other, likely end
  return raw
end

for n = 3, #ARGV do
  local id = ARGV[n]
  local raw = look_up(id)
  states[n - 2] = not raw and -1 or likely == 's' and state_of(id, raw, n - 2) or state_of_run(raw)
end
if #queued > 0 then
  for n, place in ipairs(call('ZMSCORE', P .. 'pending:default', unpack(queued))) do
    if not place then states[places[n]] = 2 end -- claimed: it runs
  end
end
return states
