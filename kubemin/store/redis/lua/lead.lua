-- A term begins: accepted when its epoch is higher than any before, or it is this very term.
-- KEYS   1 epoch
-- ARGV   1 prefix; 2 packed: epoch, holder
-- reply  1, or 0 with the newest term: [0, "EPOCH HOLDER"]
local known = call('GET', KEYS[1])
local newest = tonumber(string.match(known or '0 ', '^(%d+)'))
local wanted = string.format('%.0f', REQ.epoch) .. ' ' .. REQ.holder
if REQ.epoch > newest then
  call('SET', KEYS[1], wanted)
  return { 1, wanted }
end
return { known == wanted and 1 or 0, known }
