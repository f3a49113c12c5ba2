--@ then: forms rows
-- core: the rows of one call, read once, changed in memory and written together at the end (`M.flush`), so that an
-- error half way has written nothing. Keys that follow from data are built from the prefix P; all share one hash slot.
-- A task's record (packed map): s state, f flags, o open needs, q place (number) when listed, d due, a attempts used up,
-- k token, w node and slot, y/l/z crashes, losses, drains, A goes alone, c cause, Q queued, B started, E finished, D detail (JSON),
-- (capitals such as QUEUED are numbers: scripts.py puts them in) b base, m made, n total (fan-outs), i item, p parent node (children). Times in microseconds.
local M = {
  runs = {}, tasks = {}, plans = {}, dirty = {}, dirtied = {}, pushes = {}, ripples = {}, events = {},
  short = false, parked = false, fans = false, left = false,
}
local NAMES = { [0] = 'waiting', 'queued', 'running', 'completed', 'failed', 'timeout', 'cancelled', 'skipped' }
local band, bor, bnot, min, max = bit.band, bit.bor, bit.bnot, math.min, math.max
local pack, unpack_one, match, sub = cmsgpack.pack, cmsgpack.unpack, string.match, string.sub
local UNREADABLE = 'KUBEMIN_MISSING a record cannot be read'

if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000000 + time[2]
end

-- Where Redis takes no writes (memory, disk), this fails before anything was changed: what only removes is let through.
if not REQ.reads then call('SET', P .. 'probe', '') end

function M.clear(flags, bits) return band(flags or 0, bnot(bits)) end

-- What leads to records of version N above 1 (due, ripples, lists…) stands apart: older nodes never meet them there.
function M.mark(version) return (version or 1) > 1 and '@v' .. version or '' end

function M.is_newer(record) return (record.v or 1) > (REQ.version or 1) end

function M.refuse_newer(id, record)
  error('KUBEMIN_NEWER run ' .. id .. ' has a record of version ' .. record.v)
end

-- Spoilt bytes often unpack to something.
function M.sound(record)
  if type(record) ~= 'table' or type(record.s) ~= 'number' then error(UNREADABLE) end
  return record
end

-- Of a run with plain steps its tasks' hash says how many are live, while they go on without the engine (steps.lua).
function M.live_of(run)
  local live = call('HGET', P .. 'tasks:' .. run.id, 'h')
  if live == '' then return run.l end
  return tonumber(match(live or '', '^w?(%d+)$')) or error('KUBEMIN_MISSING the count of run ' .. run.id .. ' is missing')
end

-- Whatever its version: for looking. Who goes on with a run asks `find_run`.
function M.look_at(id)
  local run = M.runs[id]
  if run == nil then
    local raw = call('HGET', P .. 'run:' .. id, 'r')
    run = raw and M.sound(unpack_one(raw)) or false
    if run then run.id = id end
    if run and run.x and run.g == RELEASED then run.l = M.live_of(run) end
    M.runs[id] = run
  end
  return run
end

function M.find_run(id)
  local run = M.look_at(id)
  if run and M.is_newer(run) then M.refuse_newer(id, run) end
  return run
end

function M.run(id)
  return M.find_run(id) or error('KUBEMIN_MISSING run ' .. id .. ' is missing')
end
