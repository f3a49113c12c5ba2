-- renew: prolong the leader's lock, by its owner alone, in its own term alone.
-- KEYS[1] lock   string "EPOCH ACQUIRED HOLDER"
-- ARGV[1] holder, ARGV[2] epoch, ARGV[3] life in ms
-- reply  {1, value, life in ms} renewed; {0, value, ms left} somebody else's; {-1, "", -2} there is none: the term is lost
local current = redis.call('GET', KEYS[1])
if not current then
  return {-1, '', -2}
end
local epoch, holder = string.match(current, '^(%d+) %d+ (.*)$')
if holder ~= ARGV[1] or epoch ~= ARGV[2] then
  return {0, current, redis.call('PTTL', KEYS[1])}
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, current, tonumber(ARGV[3])}
