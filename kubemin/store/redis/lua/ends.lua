-- ends: how plain tasks ended, then what was told in full; goes on from finish_and_claim.lua. Texts that grow (`held`,
-- `ended`) are cut and joined once: each change would copy them.
local function end_single(task, at)
  local id = sub(task, 1, -3) -- a single task's name ends in ".0"
  local run = P .. 'run:' .. id
  if ARGV[at + 2] ~= '' then
    call('HSET', run, 's', ARGV[at + 1], 'o', ARGV[at + 2])
  else
    call('HSET', run, 's', ARGV[at + 1])
  end
  ends[#ends + 1] = id
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

local begin = 1 -- of what is still held: a batch mostly ends as it was claimed
local function let_go(from, upto)
  if from == begin then
    begin = upto
  else
    held, begin = sub(held, begin, from - 1) .. sub(held, upto), 1
  end
end

for at = 13, #ARGV, 4 do
  local name = ARGV[at]
  local from, to = find(held, name .. ' ', begin, true)
  local verdict
  if not from then
    if steps then steps.write() end
    verdict = E().late(name)
  else
    local kind, stop, upto = match(held, '^(%d) %d+ %d+ (%S+) %S;()', to + 1)
    local task = sub(name, 1, find(name, '@', 1, true) - 1)
    if stop == '-' and kind == '1' then
      verdict = end_single(task, at)
    elseif kind == '3' then
      verdict = S().finish(task, name, at)
    end
    if verdict then
      let_go(from, upto)
      unlocked[#unlocked + 1] = 'lock:{workflow:queue}:' .. task
    else
      verdict = put_off(name, at)
    end
  end
  told[#told + 1] = verdict
end
if steps then steps.write() end
held = sub(held, begin)
if in_full then held = E().settle_all(held, told, unlocked) end
if #unlocked > 0 then call('DEL', unpack(unlocked)) end
