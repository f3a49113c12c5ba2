--@ lazy
--@ engine: slots core rules queue solo settle outcome begin flush settling admitting claiming
--@ rare: fanout building stopping tails aside
--@ then: packing queueing steps ends waited claim_next write_slot
-- One round trip: record how attempts ended with all that follows, let go their locks, and claim what is next. Straight
-- through for single tasks in their first life, and for plain steps (steps.lua); all else calls the engine (making its
-- closures and tables costs more than such a task). What follows from data is built from the prefix: all keys share one
-- hash slot.
-- KEYS   1 the slot's record; then for each queue, in priority order: its list, its `pending` set
-- ARGV   1 prefix; 2 packed, for the engine: instance, place "node|slot", outcomes in full, limits; 3 number of the request
--        (empty: told for a worker by its coordinator; numbers and the stored reply stay as they are),
--        4 now (microseconds) or '', 5 slot's name, 6 lock's value without its token, 7 its life (ms), 8 limit,
--        9 popped entry, '' or '?' (BLPOP ran just before: waited.lua), 10 which of the queues it is from, with '?' the lists of
--        each that hold its entries while it is paused, 11 1 when there are outcomes in full, 12 place as the engine's; then for
--        each that completed and is plain: TASK@TOKEN, its final record, its output or '', of a step "QUEUE IDX…" of those that need it
-- reply  packed into one text (Redis 6 writes an array within an array to the socket on its own, each a system call):
--        [status OK | RETIRED (verdicts alone) | STALE, verdicts (plain ones, then full ones): C completed, A accepted, D duplicate,
--        F fenced; [left, fans, events] or false; then for each claim what `shown` says]
local slot_key, number, now, limit = KEYS[1], ARGV[3], ARGV[4], tonumber(ARGV[8])
if now == '' then
  local time = call('TIME')
  now = time[1] .. string.format('%06d', time[2])
end
local raw = call('GET', slot_key)
local last, verdicts, ended, held = '0', '', '', ''
local find, sub, match = string.find, string.sub, string.match
if raw and raw ~= 'retired' then -- plain searches: a pattern goes through it letter by letter
  local first = find(raw, '|', 1, true)
  local second = find(raw, '|', first + 1, true)
  local third = find(raw, '|', second + 1, true)
  last, ended, held = sub(raw, 1, first - 1), sub(raw, second + 1, third - 1), sub(raw, third + 1)
end
local told, unlocked, events, ends, taken = {}, {}, {}, {}, {}
local M
local function E()
  if not M then
    REQ = cmsgpack.unpack(ARGV[2])
    NOW = REQ.now or tonumber(now)
    M = engine()
  end
  return M
end
if raw == 'retired' then return cmsgpack.pack(E().refused()) end
if not raw then
  if number == '' or call('HEXISTS', P .. 'retired', cmsgpack.unpack(ARGV[2]).instance) == 1 then
    return cmsgpack.pack(E().refused())
  end
  if ARGV[11] == '1' or ARGV[13] then call('SET', P .. 'orphans', now) end -- it had claims, in a record (orphans.py)
  call('SADD', P .. 'slots', ARGV[5])
elseif number == '' then
  last = sub(raw, 1, find(raw, '|', #last + 2, true) - 1)
elseif #number == #last and number <= last or #number < #last then
  if number == last then return cmsgpack.pack(E().repeated(raw)) end
  return cmsgpack.pack({ 'STALE', last })
end

