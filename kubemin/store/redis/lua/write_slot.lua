-- write_slot: the end of finish_and_claim.lua: the slot's record, with what ended and what was claimed.
verdicts = table.concat(told)
held = held .. table.concat(taken)
if #ends > 0 then ended = ended .. table.concat(ends, ' ' .. now .. ',') .. ' ' .. now .. ',' end
if #ended > 1216 then
  local entries = {}
  for entry in string.gmatch(ended, '([^,]+),') do entries[#entries + 1] = entry end
  for at = 1, #entries, 500 do call('RPUSH', P .. 'ended', unpack(entries, at, math.min(at + 499, #entries))) end
  ended = ''
end
call('SET', slot_key, (number == '' and last or number .. '|' .. verdicts) .. '|' .. ended .. '|' .. held)
reply[2] = verdicts
return cmsgpack.pack(reply)
