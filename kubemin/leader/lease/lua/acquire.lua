-- acquire: take the leader's lock when it is nobody's, or the caller's own, under a new and higher epoch.
-- KEYS[1] lock   string "EPOCH ACQUIRED HOLDER", with a life time
-- KEYS[2] epoch  counter of acquisitions, for ever
-- ARGV[1] holder, ARGV[2] its life in ms, ARGV[3] the lowest epoch to take, ARGV[4] wall clock in microseconds, for people
-- reply  {1, "EPOCH ACQUIRED HOLDER", life in ms}, or {0, what is there, milliseconds it has left}
local current = redis.call('GET', KEYS[1])
if current then
  local holder = string.match(current, '^%d+ %d+ (.*)$')
  if holder and holder ~= '' and holder ~= ARGV[1] then
    return {0, current, redis.call('PTTL', KEYS[1])}
  end
end
local epoch = redis.call('INCR', KEYS[2])
local lowest = tonumber(ARGV[3])
if epoch < lowest then -- the counter is gone or fell back (FLUSHALL, a restart without persistence): the store knows better
  epoch = lowest
  redis.call('SET', KEYS[2], ARGV[3])
end
local value = string.format('%d %s %s', epoch, ARGV[4], ARGV[1])
redis.call('SET', KEYS[1], value, 'PX', ARGV[2])
return {1, value, tonumber(ARGV[2])}
