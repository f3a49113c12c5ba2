-- packing: a run's record, with its state first: states.lua looks for it there.
local function pack_run(run)
  local state = run.s
  run.s = nil
  local raw = cmsgpack.pack(run)
  run.s = state
  local first, rest = string.byte(raw), 2
  local count = first - 128
  if first == 222 then
    count, rest = string.byte(raw, 2) * 256 + string.byte(raw, 3), 4 -- a map of 16 fields and more
  end
  count = count + 1
  local head = count < 16 and string.char(128 + count) or '\222\000' .. string.char(count)
  return head .. '\161s' .. string.char(state) .. string.sub(raw, rest)
end
