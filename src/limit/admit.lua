-- One call of a subject: a place among those that are worked on, and one of the rate.
--
-- KEYS: the rate's instant; the calls in flight.
-- ARGV: microseconds from one to the next; the most at once, in microseconds; the most in flight (0: not counted); the
-- call; how long a call may be in flight, in milliseconds.
-- Answers {0, 0}; {1, microseconds until the next is free}; {2, 0} where too many are in flight.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if most > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most then return {2, 0} end
end
local paced = tonumber(redis.call('GET', KEYS[1]) or '') or now
-- A server whose clock was ahead may have written it: nobody waits longer than a whole burst for that.
paced = math.min(math.max(paced, now), now + burst)
local following = paced + interval
if following - now > burst then return {1, following - now - burst} end
redis.call('SET', KEYS[1], string.format('%.0f', following), 'PX', math.ceil((following - now) / 1000))
if most > 0 then
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[5]) * 1000), ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
return {0, 0}
