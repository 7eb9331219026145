-- One change of a subject, if it fits the hour and the day.
--
-- KEYS: the changes of the last day, by their time.
-- ARGV: the most within an hour; within a day; the change.
-- Answers {0, 0}; {1, milliseconds} until the hour has room, or {2, milliseconds} until the day has.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local hour, day = 3600000, 86400000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - day)
local count = redis.call('ZCARD', KEYS[1])
local function full(most, window)
  if count < most then return nil end
  -- There is room when this one is out of the window. A clock that went back makes nobody wait longer than the window.
  local last = tonumber(redis.call('ZRANGE', KEYS[1], count - most, count - most, 'WITHSCORES')[2])
  if last <= now - window then return nil end
  return math.min(last + window - now, window)
end
local wait = full(tonumber(ARGV[2]), day)
if wait then return {2, wait} end
wait = full(tonumber(ARGV[1]), hour)
if wait then return {1, wait} end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], day)
return {0, 0}
