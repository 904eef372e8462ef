-- Caches the system state unless a newer one is cached.
--
-- KEYS  1 state
-- ARGV  1 version  2 state
-- Returns 1 when it was written.

local cached = redis.call('GET', KEYS[1])
if cached and tonumber(string.match(cached, '^%d+')) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2])
return 1
