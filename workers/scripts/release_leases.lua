-- Gives up the leases that a prices process still holds.
--
-- KEYS  leases
-- ARGV  1 owner
-- Returns how many were given up.

local released = 0
for i = 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[1] then
        released = released + redis.call('DEL', KEYS[i])
    end
end
return released
