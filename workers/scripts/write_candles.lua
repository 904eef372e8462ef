-- Merges what one prices process saw of symbols in one step into their candles: the opening price stays the one that was
-- written first, the closing price is the one written last. The same candle twice, or first a part of it and then all of it,
-- ends the same. Symbols that another process drives are passed over: it writes them.
--
-- KEYS  1 candles of the step, then for each symbol: lease
-- ARGV  1 owner  2 time to live (ms), then for each symbol: name, open, high, low, close
-- Returns how many symbols were written. A candle is open|high|low|close.

local names, leases = {}, {}
for i = 2, #KEYS do
    leases[#leases + 1] = KEYS[i]
    names[#names + 1] = ARGV[3 + (i - 2) * 5]
end
local holders = redis.call('MGET', unpack(leases))
local known = redis.call('HMGET', KEYS[1], unpack(names))
local fields = {}
for i, name in ipairs(names) do
    if not holders[i] or holders[i] == ARGV[1] then
        local a = 3 + (i - 1) * 5
        local open, high, low, close = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
        if known[i] then
            local first, highest, lowest = string.match(known[i], '^([^|]*)|([^|]*)|([^|]*)|')
            open = first
            if tonumber(highest) > tonumber(high) then high = highest end
            if tonumber(lowest) < tonumber(low) then low = lowest end
        end
        fields[#fields + 1] = name
        fields[#fields + 1] = open .. '|' .. high .. '|' .. low .. '|' .. close
    end
end
if #fields > 0 then
    redis.call('HSET', KEYS[1], unpack(fields))
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return #fields / 2
