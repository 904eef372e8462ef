-- How many deals of one symbol's trigger book have a trigger in each step of the price axis, by counting, not by reading.
--
-- KEYS  1 upper  2 lower
-- ARGV  the edges of the steps, rising; a step is from its lower edge up to, not including, its upper one
-- Returns {count of each step in upper}, {the same in lower}

local function counts(key)
    local found = {}
    for i = 1, #ARGV - 1 do
        found[i] = redis.call('ZCOUNT', key, ARGV[i], '(' .. ARGV[i + 1])
    end
    return found
end

return {counts(KEYS[1]), counts(KEYS[2])}
