--@ then: ending handing deciding
-- settle: draws the consequences of ends, as far as `budget` records reach; what is left becomes ripples (cursors).
local work, head, tail, budget = {}, 1, 0, 0

function M.later(kind, id, idx, pos)
  tail = tail + 1
  work[tail] = { kind, id, idx or 0, pos or 0 }
end

function M.budget() return budget end
function M.spend(count) budget = budget - count end

function M.leave_ripple(run, kind, idx, pos)
  M.ripples[#M.ripples + 1] = { run.v, string.format('%s %s %d %d %d', kind, run.id, idx, pos, run.R) }
end

local SERVERS = { 'OOM ', 'MISCONF', 'READONLY', 'NOREPLICAS', 'NOPERM', 'MASTERDOWN' }

local function problem_of(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  for _, word in ipairs(SERVERS) do
    if string.find(text, word, 1, true) then error(problem, 0) end -- the server's own, not of a record
  end
  return string.match(text, 'KUBEMIN_MISSING (.*)') or 'its record makes no sense: ' .. text
end

-- Whatever is wrong with the records of run `id` ends that run alone (aside.lua). Nil then; also for a newer run, which stays.
function M.guarded(id, act, ...)
  local done, one, two = pcall(act, ...)
  if done then return one, two end
  local why = problem_of(one)
  if not string.find(why, 'KUBEMIN_NEWER', 1, true) then M.put_aside(id, why) end
  return nil
end

function M.is_aside(run) return run and run.st == 'corrupt' and run.s == FAILED end

function M.forget_work(id)
  local kept = 0
  for n = head, tail do
    local step = work[n]
    work[n] = nil
    if step[2] ~= id then
      work[head + kept] = step
      kept = kept + 1
    end
  end
  tail = head + kept - 1
end

function M.settle(limit)
  budget = limit
  while work[head] and budget > 0 do
    local step = work[head]
    work[head] = nil
    head = head + 1
    if not M.is_aside(M.runs[step[2]]) then M.guarded(step[2], M[step[1]], step[2], step[3], step[4]) end
  end
  while work[head] do
    local step = work[head]
    work[head] = nil
    head = head + 1
    M.leave_ripple(M.run(step[2]), step[1], step[3], step[4])
  end
  M.refill()
end
