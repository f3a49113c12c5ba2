--@ then: unfolding closing
-- settling: the slow half of finishing: outcomes of steps, failures, whatever has to be looked up.
M.write_ended = slots.write_ended

-- An outcome of a task that is not this slot's: a repeat after a lost acknowledgement, or fenced.
function M.late(name)
  M.flush()
  local id, idx, token = string.match(name, '^(%w+)%.(%d+)@(%d+)$')
  local single = idx == '0' and call('HGET', P .. 'run:' .. id, 's')
  local found = single or M.record_of(id, idx)
  local known, task = pcall(single and M.read_state or M.read_task, found or '')
  if known and task.k == tonumber(token) and band(task.f or 0, SETTLED) ~= 0 then return 'D' end
  return 'F'
end

-- Of a retired life nothing is accepted; what was accepted before is still known.
function M.refused()
  local told = {}
  for at = 13, #ARGV, 4 do told[#told + 1] = M.late(ARGV[at]) end
  for _, out in ipairs(REQ.out) do told[#told + 1] = M.late(string.format('%s.%d@%.0f', out[1], out[2], out[3])) end
  return { 'RETIRED', table.concat(told) }
end

-- Whether it was accepted, and whether it was the first attempt, so that there are no tails of an earlier one.
local function settle(claim, out)
  local run, task = M.claimed(claim)
  if M.is_aside(run) then return false end
  local first = ((run or task).R or 1) == 1 and not (task.a or task.y or task.l or task.z)
  task.f = bor(task.f or 0, SETTLED)
  task.k, task.w, task.D = out[3], REQ.place, out[7] ~= '' and out[7] or nil
  task.B = out[11] > 0 and out[11] or claim.started
  if run then M.touch(task) else M.save_solo(task) end
  if out[4] < 0 then
    M.put_back(run, task, out[5])
    return true, first
  end
  if out[4] == COMPLETED and out[8] then
    if run then
      call('HSET', P .. 'out:' .. claim.id, claim.idx, out[8])
    else
      call('HSET', P .. 'run:' .. claim.id, 'o', out[8])
    end
  end
  M.attempt_ended(run, task, out[4], out[5] ~= '' and out[5] or nil, out[6])
  return true, first
end

function M.settle_all(held, told, unlocked)
  local slot = slots.parse('0|||' .. held)
  for _, out in ipairs(REQ.out) do
    local verdict
    for n, claim in ipairs(slot.c) do
      if claim.id == out[1] and claim.idx == out[2] and claim.token == out[3] then
        table.remove(slot.c, n)
        local accepted, first = M.guarded(claim.id, settle, claim, out)
        if accepted and (out[4] >= 0 and not first or out[9] ~= '' or out[10] ~= '') then
          M.keep_tails(claim, out[9], out[10], out[4] == COMPLETED and REQ.tail or 4 * REQ.tail, REQ.tails)
        end
        unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. claim.name
        verdict = accepted and 'A' or 'F'
        break
      end
    end
    told[out.at or #told + 1] = verdict or M.late(string.format('%s.%d@%.0f', out[1], out[2], out[3]))
  end
  M.draw()
  local claims = {}
  for n, claim in ipairs(slot.c) do claims[n] = slots.claim_text(claim) end
  return table.concat(claims)
end
