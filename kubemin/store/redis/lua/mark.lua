-- mark: a schedule's last slot. Raised once for each slot, by whoever comes first.
function M.raise_mark(name, slot)
  local raw = call('HGET', P .. 'workflows', name)
  local known = raw and unpack_one(raw)
  if not known or M.is_newer(known) or known.m >= slot then return false end
  known.m = slot
  call('HSET', P .. 'workflows', name, pack(known))
  return true
end
