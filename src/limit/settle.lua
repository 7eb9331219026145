-- What became of an opening: the room is given back, and the rules that were opened or left are noted.
--
-- KEYS: as for the room.
-- ARGV: how long a rule is remembered, in milliseconds; how much room; what its members begin with; then the rules,
-- each behind a `+` (opened) or a `-` (left).
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for number = 1, tonumber(ARGV[2]) do
  redis.call('ZREM', KEYS[1], ARGV[3] .. number)
end
for number = 4, #ARGV do
  local rule = string.sub(ARGV[number], 2)
  if string.sub(ARGV[number], 1, 1) == '+' then
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), rule)
    redis.call('ZREM', KEYS[1], '-' .. rule)
  else
    -- Told as well as not told of: other replicas may have seen it.
    redis.call('ZREM', KEYS[1], rule)
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), '-' .. rule)
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 0
