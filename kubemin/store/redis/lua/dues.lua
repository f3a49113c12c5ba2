-- dues: tasks that wait for their time.
local function due_key(task)
  local run = M.runs[task.run]
  return P .. 'due' .. M.mark((run or task).v)
end

function M.set_due(task, at)
  task.d = at
  call('ZADD', due_key(task), at, 't' .. task.run .. '.' .. task.idx)
end

function M.unset_due(task)
  if task.d then
    call('ZREM', due_key(task), 't' .. task.run .. '.' .. task.idx)
    task.d = nil
  end
end
