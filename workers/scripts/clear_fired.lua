-- Removes entries from `fired` that PostgreSQL has settled or refused, unless a newer version has fired since.
--
-- KEYS  1 fired  2 fired_at
-- ARGV  for each deal: id, version
-- Returns how many were removed.

local removed = 0
for a = 1, #ARGV, 2 do
    local entry = redis.call('HGET', KEYS[1], ARGV[a])
    if entry and tonumber(string.match(entry, '^%d+')) <= tonumber(ARGV[a + 1]) then
        redis.call('HDEL', KEYS[1], ARGV[a])
        redis.call('ZREM', KEYS[2], ARGV[a])
        removed = removed + 1
    end
end
return removed
