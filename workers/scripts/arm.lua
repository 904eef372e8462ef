-- Puts deals of one symbol into the book, or takes them out; fires at once what has crossed since the price they were
-- checked against: at the current price if it lies beyond a trigger, else at the trigger that the window reached.
--
-- KEYS  1 state  2 fired  3 fired_at  4 price  5 window  6 upper  7 lower  8 versions
-- ARGV  1 now (ms)  2 stale after (ms)  3 symbol; then for each deal: id, version, watched-from sequence, upper or '',
--       lower or '', 'U' or 'L' (which of the two is its Stop Loss); at most 1,000 deals, each once
-- Returns {{id of each deal the book or `fired` now holds at that version}, {id, entry, … of those fired now}}
-- Refuses a version older than the one held. Without triggers the deal leaves the book. What has crossed but may not fire
-- now (stale price, not running) is put into the book and not reported as held: it is to be armed again.

local now, stale_ms, symbol = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local held, fired = {}, {}
local cached = redis.call('GET', KEYS[1])
local running = cached and string.match(cached, ':(.*)$') == 'running'
local p = redis.call('HMGET', KEYS[4], 'price', 'at', 'trade_id', 'seq', 'received', 'b_seq', 'b_low', 'b_high')
local age_ms = p[1] and tonumber(now) - math.min(tonumber(p[5]), tonumber(p[2]))
local fresh = age_ms and age_ms < stale_ms and age_ms > -2000  -- a price from the future means that a clock has jumped

-- Buckets from the newest to the oldest, each with the lowest and highest price from it on.
local buckets
local function load_buckets()
    buckets = {{seq = tonumber(p[6]), low = tonumber(p[7]), high = tonumber(p[8])}}
    for _, entry in ipairs(redis.call('XREVRANGE', KEYS[5], '+', '-')) do
        local last = buckets[#buckets]
        buckets[#buckets + 1] = {
            seq = tonumber(string.match(entry[1], '^%d+')),
            low = math.min(last.low, tonumber(entry[2][2])), high = math.max(last.high, tonumber(entry[2][4])),
        }
    end
end

local function range_since(seq)
    if not buckets then load_buckets() end
    local first, last = 1, #buckets
    if buckets[1].seq <= seq then return nil end
    while first < last do
        local middle = math.ceil((first + last) / 2)
        if buckets[middle].seq > seq then first = middle else last = middle - 1 end
    end
    return buckets[first]
end

-- The price at which a deal has crossed already, or nil.
local function crossed_price(from_seq, upper, lower, stop)
    if not p[1] or tonumber(p[4]) <= from_seq then return nil end
    local high, low = upper ~= '' and tonumber(upper), lower ~= '' and tonumber(lower)
    local price = tonumber(p[1])
    if (high and price >= high) or (low and price <= low) then return p[1] end
    local range = range_since(from_seq)
    if not range then return nil end
    local up, down = high and range.high >= high, low and range.low <= low
    if stop == 'U' then return (up and upper) or (down and lower) or nil end
    return (down and lower) or (up and upper) or nil
end

-- What the book and `fired` hold of all the deals, read at once; what is put into the book is written at once too.
local ids = {}
for a = 4, #ARGV, 6 do ids[#ids + 1] = ARGV[a] end
local versions = redis.call('HMGET', KEYS[8], unpack(ids))
local entries = redis.call('HMGET', KEYS[2], unpack(ids))
local uppers, lowers, armed = {}, {}, {}

for i, id in ipairs(ids) do
    local a = 4 + (i - 1) * 6
    local version, from_seq, upper, lower, stop = ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
    local in_book = tonumber(versions[i] or '0')
    local entry = entries[i]
    local in_fired = entry and tonumber(string.match(entry, '^%d+')) or 0
    if in_fired >= tonumber(version) then
        if in_fired == tonumber(version) then held[#held + 1] = id end
        if versions[i] and in_book <= in_fired then  -- an older book came back, or was rebuilt before `fired`
            redis.call('ZREM', KEYS[6], id)
            redis.call('ZREM', KEYS[7], id)
            redis.call('HDEL', KEYS[8], id)
        end
    elseif in_book <= tonumber(version) then
        if entry then
            redis.call('HDEL', KEYS[2], id)
            redis.call('ZREM', KEYS[3], id)
        end
        local crossed = crossed_price(from_seq, upper, lower, stop)
        local price = running and fresh and crossed
        local leaves = price or (upper == '' and lower == '')
        if leaves or upper == '' then
            redis.call('ZREM', KEYS[6], id)
        else
            uppers[#uppers + 1], uppers[#uppers + 2] = upper, id
        end
        if leaves or lower == '' then
            redis.call('ZREM', KEYS[7], id)
        else
            lowers[#lowers + 1], lowers[#lowers + 2] = lower, id
        end
        if leaves then
            redis.call('HDEL', KEYS[8], id)
        else
            armed[#armed + 1], armed[#armed + 2] = id, version
        end
        if price then
            entry = table.concat({version, symbol, price, price == p[1] and p[3] or '', p[2], p[5], now, 'arm'}, '|')
            redis.call('HSET', KEYS[2], id, entry)
            redis.call('ZADD', KEYS[3], now, id)
            fired[#fired + 1], fired[#fired + 2] = id, entry
        end
        if price or not crossed then held[#held + 1] = id end
    end
end

if #uppers > 0 then redis.call('ZADD', KEYS[6], unpack(uppers)) end
if #lowers > 0 then redis.call('ZADD', KEYS[7], unpack(lowers)) end
if #armed > 0 then redis.call('HSET', KEYS[8], unpack(armed)) end

return {held, fired}
