-- Removes entries from `fired` that PostgreSQL has settled or refused, unless a newer version has fired since.
--
-- KEYS  1 fired  2 fired_at
-- ARGV  for each deal: id, version
-- Returns how many were removed.

local CHUNK = 1000
local removed = 0
for from = 1, #ARGV, 2 * CHUNK do
    local ids, settled = {}, {}
    for a = from, math.min(from + 2 * CHUNK, #ARGV) - 1, 2 do ids[#ids + 1] = ARGV[a] end
    for i, entry in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
        local version = tonumber(ARGV[from + 2 * i - 1])
        if entry and tonumber(string.match(entry, '^%d+')) <= version then settled[#settled + 1] = ids[i] end
    end
    if #settled > 0 then
        removed = removed + redis.call('HDEL', KEYS[1], unpack(settled))
        redis.call('ZREM', KEYS[2], unpack(settled))
    end
end
return removed
