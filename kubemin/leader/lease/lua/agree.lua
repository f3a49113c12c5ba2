-- agree: which backend this fleet elects its leader by. The first node that campaigns says it, for good.
-- KEYS[1] backend   string, without a life time
-- ARGV[1] the caller's backend
-- reply  the backend in force; the caller's own when it agrees
redis.call('SETNX', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
