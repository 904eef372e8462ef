-- Finds the end of the log of events, and begins the log when there is none: so that every place in it is an entry.
--
-- KEYS  1 events
-- Returns the id of the last entry.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return last and last[1] or redis.call('XADD', KEYS[1], '*', 'type', 'began', 'data', '{}')
