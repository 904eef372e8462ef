-- One symbol's candles of many steps; nil where it has none.
--
-- KEYS  candles of each step
-- ARGV  1 symbol
-- Returns a candle for each key; see write_candles.lua.

local found = {}
for i, key in ipairs(KEYS) do
    found[i] = redis.call('HGET', key, ARGV[1])
end
return found
