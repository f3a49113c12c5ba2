--@ then: parking dues
-- queue: places in lists. An entry is TASK@SEQ; the sorted set `pending` of a queue holds every task that is queued and
-- not claimed, by its SEQ: it decides who claims, the list only hands out. A paused queue's entries stand in `held`.
function M.list_key(queue, version)
  local name = queue == 'default' and 'workflow:queue' or 'workflow:queue:{workflow:queue}:' .. queue
  if (version or 1) > 1 then return 'workflow:queue:{workflow:queue}:' .. queue .. '@v' .. version end
  return name
end

function M.pending_key(queue, version) return P .. 'pending:' .. queue .. M.mark(version) end

function M.queue_of(run, task) return task.u or M.plan_of(run, task).q or 'default' end

function M.push(queue, version, task)
  task.q = 0
  M.pushes[#M.pushes + 1] = { queue, version or 1, task }
end

-- Back to the head with its old number: the list stays in order of SEQ, which `rescue` goes by. False when it would not.
function M.push_front(queue, version, task, seq)
  local key = M.list_key(queue, version)
  if call('SISMEMBER', P .. 'paused', queue) == 1 then key = P .. 'held:' .. queue .. '@' .. (version or 1) end
  local first = call('LINDEX', key, 0)
  if first and tonumber(string.match(first, '@(%d+)$') or 0) <= seq then return false end
  local name = task.run .. '.' .. task.idx
  task.q = seq
  call('ZADD', M.pending_key(queue, version), seq, name)
  call('LPUSH', key, name .. '@' .. string.format('%.0f', seq))
  return true
end

-- Drop a place that is known to be taken.
function M.unplace(queue, version, task)
  if task.q == 0 then
    for n, push in ipairs(M.pushes) do
      if push[3] == task then table.remove(M.pushes, n) break end
    end
  else
    call('ZREM', M.pending_key(queue, version), task.run .. '.' .. task.idx)
  end
  task.q = nil
end
