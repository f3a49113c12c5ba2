-- forms: records of tasks. What has been through nothing yet has a short form (steps.lua); all else is packed.
local SHORT = {
  w = function(raw) return { s = WAITING, o = tonumber(match(raw, '^w(%d+)$')) or error(UNREADABLE) } end,
  q = function(raw) return { s = QUEUED, o = 0, q = -1, Q = tonumber(match(raw, '^q(%d+)$')) or error(UNREADABLE) } end,
  g = function(raw)
    local queued, token = match(raw, '^g(%d+) (%d+)$')
    if not queued then error(UNREADABLE) end
    return { s = QUEUED, o = 0, q = -1, k = tonumber(token), Q = tonumber(queued) }
  end,
  r = function(raw)
    local queued, token, started, place = match(raw, '^r(%d+) (%d+) (%d+) (.*)$')
    if not queued then error(UNREADABLE) end
    return { s = RUNNING, o = 0, k = tonumber(token), Q = tonumber(queued), B = tonumber(started), w = place }
  end,
}

function M.read_task(raw)
  local short = SHORT[sub(raw, 1, 1)]
  return short and short(raw) or M.sound(unpack_one(raw))
end

local PLAIN = { [WAITING] = { s = true, o = true }, [QUEUED] = { s = true, o = true, q = true, k = true, Q = true } }

function M.pack_task(task)
  local plain = PLAIN[task.s]
  if plain and task.f == 0 then task.f = nil end
  if not plain or (task.s == QUEUED and not task.q) then return pack(task) end
  for name in pairs(task) do
    if not plain[name] then return pack(task) end
  end
  if task.s == WAITING then return 'w' .. task.o end
  if task.k then return string.format('g%.0f %.0f', task.Q, task.k) end
  return string.format('q%.0f', task.Q)
end
