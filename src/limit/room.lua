-- Room for leases that a subject is about to open, and what every replica has opened for it lately.
--
-- KEYS: the rules opened lately and the room taken, by when they are forgotten.
-- ARGV: how long room is taken, in milliseconds; how much; what its members begin with.
-- Answers the members; a rule behind a `-` was left.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for number = 1, tonumber(ARGV[2]) do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[3] .. number)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
