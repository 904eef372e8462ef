-- Moves deals that the sweep found into `fired`. What is in `fired` already at that version or a newer one keeps its price.
--
-- KEYS  1 state  2 fired  3 fired_at, then for each deal: upper, lower, versions of its symbol
-- ARGV  1 now (ms); then for each deal: id, version, entry
-- Returns {state, {id, entry, … of those fired now}}

local now, fired = ARGV[1], {}
local cached = redis.call('GET', KEYS[1])
local state = cached and string.match(cached, ':(.*)$') or ''
if state ~= 'running' then return {state, fired} end

for a = 2, #ARGV, 3 do
    local id, version, entry = ARGV[a], tonumber(ARGV[a + 1]), ARGV[a + 2]
    local k = 3 + (a - 2)
    local present = redis.call('HGET', KEYS[2], id)
    if not present or tonumber(string.match(present, '^%d+')) < version then
        redis.call('HSET', KEYS[2], id, entry)
        redis.call('ZADD', KEYS[3], now, id)
        if tonumber(redis.call('HGET', KEYS[k + 3], id) or '0') <= version then
            redis.call('ZREM', KEYS[k + 1], id)
            redis.call('ZREM', KEYS[k + 2], id)
            redis.call('HDEL', KEYS[k + 3], id)
        end
        fired[#fired + 1], fired[#fired + 2] = id, entry
    end
end

return {state, fired}
