-- Caches the system state unless a newer one is cached.
--
-- KEYS  1 state
-- ARGV  1 version  2 state
-- Returns 0 when a newer one is cached, 1 when this one was cached already, 2 when it is news.

local cached = redis.call('GET', KEYS[1])
if cached and tonumber(string.match(cached, '^%d+')) > tonumber(ARGV[1]) then return 0 end
local state = ARGV[1] .. ':' .. ARGV[2]
redis.call('SET', KEYS[1], state)
return cached == state and 1 or 2
