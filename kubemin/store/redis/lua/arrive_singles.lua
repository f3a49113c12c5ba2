--@ top: core rules queue solo settle outcome tails arriving flush
-- Single tasks that move here, many at once, each with what it has been through.
-- KEYS   1 arrived (names the slot; the runs follow from ARGV)
-- ARGV   1 prefix; 2 packed: node, floor, tails {id = [stdout, stderr, most]}, budget; then for each: id, work, extra (or ''), key (or ''), digest,
--        state (as solo.lua reads it; queued ones get their places here)
-- reply  for each 1 (new), 0 (was here), or the run that has its key: "=ID", "!ID"
local answers, tasks = {}, {}
for at = 3, #ARGV, 6 do
  local id = ARGV[at]
  answers[#answers + 1] = M.is_here(id) and 0 or M.key_taken(ARGV[at + 3], ARGV[at + 4]) or 1
  tasks[#tasks + 1] = M.read_state(ARGV[at + 5])
end
M.raise_seq(REQ.floor)

local function write(id, work, extra, state)
  if extra ~= '' then
    call('HSET', P .. 'run:' .. id, 's', state, 'w', work, 'x', extra)
  else
    call('HSET', P .. 'run:' .. id, 's', state, 'w', work)
  end
end

local function place(task)
  local queue = task.u or 'default'
  call('SADD', P .. 'queues', queue .. '@' .. (task.v or 1))
  if M.take_wish(task.run) then return M.end_solo(task, CANCELLED, 'cancelled') end
  if task.s == QUEUED then return M.push(queue, task.v or 1, task) end
  M.set_due(task, task.d)
end

for n, task in ipairs(tasks) do
  local at = 6 * n - 3
  local id, extra, tail = ARGV[at], ARGV[at + 2], REQ.tails[ARGV[at]]
  if answers[n] == 1 then
    task.run, task.idx, task.x = id, 0, extra ~= '' and extra or nil
    write(id, ARGV[at + 1], extra, ARGV[at + 5])
    if tail then M.keep_tails({ id = id, idx = 0 }, tail[1], tail[2], tail[3], REQ.budget) end
    place(task)
    M.note_arrival(id, ARGV[at + 3], ARGV[at + 4])
  end
end
return M.reply(answers)
