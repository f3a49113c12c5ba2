--@ lazy
--@ engine: slots core rules queue solo settle outcome begin flush settling admitting claiming
--@ rare: fanout building stopping tails aside
--@ then: claim_next
-- One round trip: record how attempts ended with all that follows, let go their locks, and claim what is next. Straight
-- through for single tasks in their first life; all else calls the engine (making its closures and tables costs more
-- than such a task). What follows from data is built from the prefix: all keys share one hash slot.
-- KEYS   1 the slot's record; then for each queue, in priority order: its list, its `pending` set
-- ARGV   1 prefix; 2 packed, for the engine: instance, place "node|slot", outcomes in full, limits; 3 number of the request
--        (empty: told for a worker by its coordinator; numbers and the stored reply stay as they are),
--        4 now (microseconds), 5 slot's name, 6 lock's value without its token, 7 its life (ms), 8 limit,
--        9 popped entry or '', 10 which of the queues it is from, 11 1 when there are outcomes in full; then for each
--        completed single task: TASK@TOKEN, its final record, its output or ''
-- reply  [status OK | RETIRED (verdicts alone) | STALE, verdicts (plain ones, then full ones): C completed, A accepted, D duplicate,
--        F fenced, R send it in full; [left, fans, events] or false; then for each claim what `shown` says]
local slot_key, number, now, limit = KEYS[1], ARGV[3], ARGV[4], tonumber(ARGV[8])
local raw = call('GET', slot_key)
local last, verdicts, ended, held = '0', '', '', ''
local find, sub, match = string.find, string.sub, string.match
if raw and raw ~= 'retired' then -- plain searches: a pattern goes through it letter by letter
  local first = find(raw, '|', 1, true)
  local second = find(raw, '|', first + 1, true)
  local third = find(raw, '|', second + 1, true)
  last, ended, held = sub(raw, 1, first - 1), sub(raw, second + 1, third - 1), sub(raw, third + 1)
end
local M
local function E()
  if not M then
    REQ = cmsgpack.unpack(ARGV[2])
    NOW = REQ.now or tonumber(now)
    M = engine()
  end
  return M
end
if raw == 'retired' then return E().refused() end
if not raw then
  if number == '' or call('HEXISTS', P .. 'retired', cmsgpack.unpack(ARGV[2]).instance) == 1 then return E().refused() end
  call('SADD', P .. 'slots', ARGV[5])
elseif number == '' then
  last = sub(raw, 1, find(raw, '|', #last + 2, true) - 1)
elseif #number == #last and number <= last or #number < #last then
  if number == last then return E().repeated(raw) end
  return { 'STALE', last }
end

local told, unlocked = {}, {}
for at = 12, #ARGV, 3 do
  local name = ARGV[at]
  local from, to = find(held, name .. ' ', 1, true)
  local verdict
  if not from then
    verdict = E().late(name)
  else
    local _, upto, kind, stop = find(held, '^(%d) %d+ %d+ (%S+) %S;', to + 1)
    if kind ~= '1' or stop ~= '-' then
      verdict = 'R'
    else
      local task = sub(name, 1, find(name, '@', 1, true) - 1)
      local id = sub(task, 1, -3) -- a single task's name ends in ".0"
      local run = P .. 'run:' .. id
      if ARGV[at + 2] ~= '' then
        call('HSET', run, 's', ARGV[at + 1], 'o', ARGV[at + 2])
      else
        call('HSET', run, 's', ARGV[at + 1])
      end
      held = sub(held, 1, from - 1) .. sub(held, upto + 1)
      ended = ended .. id .. ' ' .. now .. ','
      unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. task
      verdict = 'C'
    end
  end
  told[#told + 1] = verdict
end
if ARGV[11] == '1' then held = E().settle_all(held, told, unlocked) end
if #unlocked > 0 then call('DEL', unpack(unlocked)) end
