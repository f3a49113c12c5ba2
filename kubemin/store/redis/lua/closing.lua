-- closing: the end of a call that finishes and claims; goes on from settling.lua.
-- What has become ready is in its queue before anything is claimed; the rest is written at the end. One call settles
-- as many records as one slice has, however often it draws.
local left
function M.draw()
  M.settle(left or REQ.slice)
  left = M.budget()
  M.place_all()
end

function M.close(reply, events)
  for _, event in ipairs(events) do M.events[#M.events + 1] = event end
  M.settle(left or REQ.slice)
  M.flush()
  reply[3] = { (M.left or M.fans) and 1 or 0, M.fans or {}, M.events }
end
