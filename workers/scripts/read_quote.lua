-- Reads a symbol's price and ends its bucket there: the next tick begins a new one, so that what is opened or amended at
-- this price is watched from exactly the next tick on.
--
-- KEYS  1 price
-- Returns {price, exchange ms, sequence, received ms}, or nothing when there is no price.

local p = redis.call('HMGET', KEYS[1], 'price', 'at', 'seq', 'received')
if not p[1] then return nil end
redis.call('HSET', KEYS[1], 'cut', p[3])
return p
