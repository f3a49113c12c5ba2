-- repeating: a claim that is asked for again; goes on from claiming.lua.
-- A request repeated after a lost reply: what it claimed is told again.
function M.repeated(raw)
  local slot = slots.parse(raw)
  local reply = { 'OK', slot.v, { 1, {}, {} } }
  for _, claim in ipairs(slot.c) do
    if claim.request == slot.n then
      local name = string.format('%s@%.0f', claim.name, claim.token)
      if claim.plain then
        local found = call('HMGET', P .. 'tasks:' .. claim.id, 'i', claim.idx)
        local queued = match(found[2] or '', '^r(%d+) ')
        if found[1] and queued then reply[#reply + 1] = { name, found[1], queued } end
      elseif claim.kind == 0 then
        local known, task = pcall(M.task, claim.id, claim.idx) -- deleted since: its claim is looked into at its end
        if known then reply[#reply + 1] = shown_step(M.run(claim.id), task, name) end
      else
        local found = call('HMGET', P .. 'run:' .. claim.id, 'w', 's', 'x')
        local state = claim.kind == 1 and found[2] or tostring((M.read_state(found[2]).a or 0) + 1)
        reply[#reply + 1] = { name, found[1], state, found[3] }
      end
    end
  end
  return reply
end
