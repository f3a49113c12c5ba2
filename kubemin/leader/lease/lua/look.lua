-- look: the leader's lock as it is, without touching it.
-- KEYS[1] lock   string "EPOCH ACQUIRED HOLDER"; HOLDER is empty after a release
-- reply  {value or nil, milliseconds it has left (-2: there is none)}
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
