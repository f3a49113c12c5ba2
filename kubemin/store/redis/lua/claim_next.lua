-- claim_next: the second half of finish_and_claim.lua: entries are popped and claimed.
local reply = { 'OK', '', false }
local function take_single(entry, pending, id, seq, found)
  local name = id .. '.0'
  local lock = 'lock:{workflow:queue}:' .. name
  if not call('SET', lock, ARGV[6] .. seq, 'NX', 'PX', ARGV[7]) then
    if call('ZSCORE', pending, name) then E().guarded(id, M.postpone, id, 0, pending) end
    return
  end
  if call('ZREM', pending, name) == 0 then
    call('DEL', lock)
    call('SET', P .. 'orphans', now) -- it has lost its place; or has just run, without its lock (orphans.py)
    return
  end
  taken[#taken + 1] = entry .. ' 1 ' .. now .. ' ' .. number .. ' - -;'
  reply[#reply + 1] = { entry, found[1], found[2], found[3] }
end

-- True: it goes back to the head.
local function take(entry, pending)
  local id, idx, seq = match(entry, '^(%w+)%.(%d+)@(%d+)$')
  if not id then return end
  local found = idx == '0' and redis.pcall('HMGET', P .. 'run:' .. id, 'w', 's', 'x')
  local state = found and found[2]
  if state and string.byte(state) == 113 and find(state, ' 1 ', 1, true) then -- "q": queued in its first life
    return take_single(entry, pending, id, seq, found)
  end
  if not state then
    local done, claim = S().claim(pending, id, idx, seq)
    reply[#reply + 1] = claim
    if done then return end
  end
  local claim, last_one, back = E().take(entry, pending, found, reply)
  taken[#taken + 1] = claim
  if last_one then limit = #reply - 3 end
  return back
end

if limit > 0 and ARGV[9] == '?' then
  local entry, pending = waited()
  if entry then take(entry, pending) end
elseif limit > 0 and ARGV[9] ~= '' then
  take(ARGV[9], KEYS[2 * ARGV[10] + 1])
end

-- Entries of tasks that were cancelled stay in their list until their turn: one call pops so many, the next goes on.
local pops = 200
for at = 2, #KEYS, 2 do
  while #reply - 3 < limit and pops > 0 do
    local wanted = limit - #reply + 3
    pops = pops - wanted
    local entries = wanted == 1 and call('LPOP', KEYS[at]) or wanted > 1 and call('LPOP', KEYS[at], wanted)
    if not entries then break end
    if wanted == 1 then
      if take(entries, KEYS[at + 1]) then call('LPUSH', KEYS[at], entries) end
    else
      for n, entry in ipairs(entries) do
        if #reply - 3 >= limit or take(entry, KEYS[at + 1]) then
          for left = #entries, n, -1 do call('LPUSH', KEYS[at], entries[left]) end
          break
        end
      end
    end
    if M then M.draw() end
  end
end
if ARGV[9] == '?' and raw and #taken == 0 and not M then return cmsgpack.pack(reply) end -- nothing to be written
if M then M.close(reply, events) elseif #events > 0 then reply[3] = { 0, {}, events } end
