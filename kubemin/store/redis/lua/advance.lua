--@ top: core rules queue solo settle fanout building stopping outcome flush aside
-- Go on with what one call could not finish: cursors of large graphs, fan-outs, cascades, in a circle.
-- KEYS   1 ripples, 2 fans, of one version of records
-- ARGV   1 prefix; 2 packed: limit, reads nil
-- reply  records that are left of the limit
local left = REQ.limit
while left > 0 do
  local found = call('ZPOPMIN', KEYS[1])
  if not found[1] then break end
  local kind, id, idx, pos, round = string.match(found[1], '^(%a+) (%w+) (%d+) (%d+) (%d+)$')
  local run = id and M.guarded(id, M.find_run, id)
  if run and not M.is_aside(run) and run.R == tonumber(round) then
    M.later(kind, id, tonumber(idx), tonumber(pos))
    M.settle(left)
    M.flush()
    left = math.min(left - 1, M.budget())
  end
end
M.left = call('EXISTS', KEYS[1]) == 1
for _, name in ipairs(call('SRANDMEMBER', KEYS[2], 20)) do
  local id, idx, round = string.match(name, '^(%w+) (%d+) (%d+)$')
  M.fans = M.fans or {}
  local known = false
  for _, fan in ipairs(M.fans) do known = known or (fan[1] == id and fan[2] == tonumber(idx)) end
  if not id then call('SREM', KEYS[2], name) end
  if id and not known then M.fans[#M.fans + 1] = { id, tonumber(idx), tonumber(round) } end
end
return M.reply(left)
