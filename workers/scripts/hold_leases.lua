-- Takes or renews the leases of symbols for one prices process, where no other process holds them.
--
-- KEYS  for each symbol: lease, price
-- ARGV  1 owner  2 fencing token  3 time to live (ms)
-- Returns {numbers (1..n) of the symbols held, numbers of those that were held before, numbers of those that are free but
-- want a newer token}. The token fences off whoever drove the symbol before.

local held, renewed, fenced = {}, {}, {}
for i = 1, #KEYS, 2 do
    local owner = redis.call('GET', KEYS[i])
    local fence = tonumber(redis.call('HGET', KEYS[i + 1], 'token') or '0')
    local free = not owner or owner == ARGV[1]
    if free and fence > tonumber(ARGV[2]) then
        fenced[#fenced + 1] = (i + 1) / 2
    elseif free then
        redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[3])
        redis.call('HSET', KEYS[i + 1], 'token', ARGV[2])
        held[#held + 1] = (i + 1) / 2
        if owner then renewed[#renewed + 1] = (i + 1) / 2 end
    end
end
return {held, renewed, fenced}
