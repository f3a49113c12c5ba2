-- ends: how plain tasks ended, then what was told in full; goes on from finish_and_claim.lua.
local function end_single(task, at)
  local id = sub(task, 1, -3) -- a single task's name ends in ".0"
  local run = P .. 'run:' .. id
  if ARGV[at + 2] ~= '' then
    call('HSET', run, 's', ARGV[at + 1], 'o', ARGV[at + 2])
  else
    call('HSET', run, 's', ARGV[at + 1])
  end
  ended = ended .. id .. ' ' .. now .. ','
  return 'C'
end

-- What does not fit is looked into by the engine, in its turn.
local in_full = ARGV[11] == '1'
local function put_off(name, at)
  E()
  in_full = true
  local id, idx, token = match(name, '^(%w+)%.(%d+)@(%d+)$')
  local record, output = cmsgpack.unpack(ARGV[at + 1]), ARGV[at + 2]
  REQ.out[#REQ.out + 1] = {
    id, tonumber(idx), tonumber(token), COMPLETED, '', '', record.D or '', output ~= '' and output, '', '', record.B or 0,
    at = #told + 1,
  }
  return '?'
end

local steps
local function S()
  steps = steps or plain_steps()
  return steps
end

for at = 13, #ARGV, 4 do
  local name = ARGV[at]
  local from, to = find(held, name .. ' ', 1, true)
  local verdict
  if not from then
    if steps then steps.write() end
    verdict = E().late(name)
  else
    local _, upto, kind, stop = find(held, '^(%d) %d+ %d+ (%S+) %S;', to + 1)
    local task = sub(name, 1, find(name, '@', 1, true) - 1)
    if stop == '-' and kind == '1' then
      verdict = end_single(task, at)
    elseif kind == '3' then
      verdict = S().finish(task, name, at)
    end
    if verdict then
      held = sub(held, 1, from - 1) .. sub(held, upto + 1)
      unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. task
    else
      verdict = put_off(name, at)
    end
  end
  told[#told + 1] = verdict
end
if steps then steps.write() end
if in_full then held = E().settle_all(held, told, unlocked) end
if #unlocked > 0 then call('DEL', unpack(unlocked)) end
