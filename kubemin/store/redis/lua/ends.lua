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
    if stop ~= '-' or kind == '0' or kind == '2' then
      verdict = 'R'
    else
      verdict = kind == '1' and end_single(task, at) or S().finish(task, name, at)
      if verdict == 'C' then
        held = sub(held, 1, from - 1) .. sub(held, upto + 1)
        unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. task
      end
    end
  end
  told[#told + 1] = verdict
end
if steps then steps.write() end
if ARGV[11] == '1' then held = E().settle_all(held, told, unlocked) end
if #unlocked > 0 then call('DEL', unpack(unlocked)) end
