-- release: leave the leader's lock to whoever comes next, by its owner alone.
-- KEYS[1] lock   string "EPOCH ACQUIRED HOLDER"; stays for its life with an empty holder, so that candidates can tell a
--                release (taken at once) from a lock that somebody deleted (the old term is waited out)
-- ARGV[1] holder, ARGV[2] epoch, ARGV[3] life in ms, ARGV[4] wall clock in microseconds
-- reply  {1, value, life in ms} released; {0, value, ms left} somebody else's; {-1, "", -2} there is none
local current = redis.call('GET', KEYS[1])
if not current then
  return {-1, '', -2}
end
local epoch, holder = string.match(current, '^(%d+) %d+ (.*)$')
if holder ~= ARGV[1] or epoch ~= ARGV[2] then
  return {0, current, redis.call('PTTL', KEYS[1])}
end
local value = epoch .. ' ' .. ARGV[4] .. ' '
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
return {1, value, tonumber(ARGV[3])}
