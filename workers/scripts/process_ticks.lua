-- Takes checked ticks in order: stores each price, widens the symbol's bucket, and moves every deal whose trigger a tick
-- reached out of both sets of the book into `fired`. Atomic. What had fired at that version keeps its price: a book that came
-- back with older data, or was rebuilt before `fired` was put back, holds it again.
--
-- KEYS  1 state  2 fired  3 fired_at, then for each symbol: price, window, upper, lower, versions, lease; then, where what
--       fires is to be told, events
-- ARGV  1 fencing token  2 owner  3 now (ms)  4 '1' to publish  5 stale after (ms)  6 the ticks, a JSON array of texts, six
--       a tick: symbol's number (1..n), price, exchange time (ms), trade id or '', sequence, received (ms); then for each
--       of the n symbols: name, channel
-- Returns {state, {symbols whose ticks were refused: another process drives them}, {id, entry, id, entry, …}, how many ticks
-- are done, {symbol, the highest lower and the lowest upper trigger that wait then, …: '' for none, or when none may fire}}.
-- A tick that crosses very many deals fires some of them and is not done: it, and all after it, must come again.
-- It is stored with the last of them: until then nobody else sees its price. Nothing waits long for this script.
-- A fired entry is version|symbol|price|trade id|exchange ms|received ms|fired ms|detector, and |gap ms when the tick came
-- after a time without prices that made the last one stale. The price keeps the last such gap and the tick that ended it.

local BUCKET_MS, WINDOW_MS, CHUNK, FIRE_LIMIT = 250, 60000, 1000, 20000
local KEEP_EVENTS, LISTED = 10000, 50  -- as in workers/events.py
local token, owner, now, publish = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local stale_ms, ticks, n = tonumber(ARGV[5]), cjson.decode(ARGV[6]), (#ARGV - 6) / 2
local cached = redis.call('GET', KEYS[1])
local state = cached and string.match(cached, ':(.*)$') or ''
local running = state == 'running'
local refused, fired, symbols = {}, {}, {}

for i = 1, n do
    local k = 3 + (i - 1) * 6
    local s = {name = ARGV[5 + 2 * i], channel = ARGV[6 + 2 * i], price_key = KEYS[k + 1], window = KEYS[k + 2],
               upper = KEYS[k + 3], lower = KEYS[k + 4], versions = KEYS[k + 5]}
    local h = redis.call('HMGET', s.price_key, 'token', 'b_seq', 'b_low', 'b_high', 'b_at', 'cut', 'seq', 'received', 'ticks')
    local holder = redis.call('GET', KEYS[k + 6])
    s.refused = (h[1] and tonumber(h[1]) > tonumber(token)) or (holder and holder ~= owner)
    if s.refused then refused[#refused + 1] = s.name end
    s.token, s.b_seq, s.b_low, s.b_high, s.b_at, s.cut = h[1], h[2], h[3], h[4], h[5], tonumber(h[6] or '-1')
    s.seen, s.received, s.ticks = tonumber(h[7] or '0'), tonumber(h[8]), tonumber(h[9] or '0')
    symbols[i] = s
end

local function store_bucket(s)
    redis.call('XADD', s.window, s.b_seq .. '-0', 'low', s.b_low, 'high', s.b_high, 'at', s.b_at)
    for _, entry in ipairs(redis.call('XRANGE', s.window, '-', '+', 'COUNT', 3)) do
        if tonumber(entry[2][6]) >= tonumber(s.b_at) - WINDOW_MS then break end
        redis.call('XDEL', s.window, entry[1])
    end
end

local function widen(s, price, seq, received)
    local fresh = not s.b_seq or tonumber(received) - tonumber(s.b_at) >= BUCKET_MS or s.cut >= tonumber(s.b_seq)
    if not fresh then
        if tonumber(price) < tonumber(s.b_low) then s.b_low, s.wider = price, true end
        if tonumber(price) > tonumber(s.b_high) then s.b_high, s.wider = price, true end
        return
    end
    if s.b_seq then store_bucket(s) end
    s.b_seq, s.b_low, s.b_high, s.b_at, s.cut = seq, price, price, received, -1
    s.wider, s.fresh = true, true
end

-- The lowest upper and the highest lower trigger: a tick between them reaches none.
local function find_nearest(s)
    local up = redis.call('ZRANGE', s.upper, 0, 0, 'WITHSCORES')
    local down = redis.call('ZREVRANGE', s.lower, 0, 0, 'WITHSCORES')
    s.lowest_upper, s.highest_lower = tonumber(up[2]) or math.huge, tonumber(down[2]) or -math.huge
    s.nearest_lower, s.nearest_upper = down[2], up[2]
end

local function fire(s, ids, tail)
    for from = 1, #ids, CHUNK do
        local chunk = {unpack(ids, from, math.min(from + CHUNK - 1, #ids))}
        local versions = redis.call('HMGET', s.versions, unpack(chunk))
        local present = redis.call('HMGET', KEYS[2], unpack(chunk))
        local entries, times = {}, {}
        for i, id in ipairs(chunk) do
            local version = versions[i] or '0'
            local fired_version = present[i] and tonumber(string.match(present[i], '^%d+')) or -1
            if fired_version < tonumber(version) then
                local entry = version .. tail
                entries[#entries + 1], entries[#entries + 2] = id, entry
                times[#times + 1], times[#times + 2] = now, id
                fired[#fired + 1], fired[#fired + 2] = id, entry
            end
        end
        if #entries > 0 then
            redis.call('HSET', KEYS[2], unpack(entries))
            redis.call('ZADD', KEYS[3], unpack(times))
        end
        redis.call('ZREM', s.upper, unpack(chunk))
        redis.call('ZREM', s.lower, unpack(chunk))
        redis.call('HDEL', s.versions, unpack(chunk))
    end
end

-- Fires what a tick reached, up to the limit; false when that may not be all.
local function fire_reached(s, price, tail)
    local left = FIRE_LIMIT - #fired / 2
    local above = redis.call('ZRANGEBYSCORE', s.upper, '-inf', price, 'LIMIT', 0, left)
    fire(s, above, tail)
    if #above == left then return false end
    left = left - #above
    local below = redis.call('ZRANGEBYSCORE', s.lower, price, '+inf', 'LIMIT', 0, left)
    fire(s, below, tail)
    return #below < left
end

local done = #ticks / 6
for a = 1, #ticks, 6 do
    local s, price, at, trade_id, seq, received =
        symbols[tonumber(ticks[a])], ticks[a + 1], ticks[a + 2], ticks[a + 3], ticks[a + 4], ticks[a + 5]
    -- A call that is sent again because its answer was lost finds its ticks done: they are passed over.
    if not s.refused and tonumber(seq) > s.seen then
        local silent_ms = s.received and tonumber(received) - s.received or 0
        local after_gap = silent_ms >= stale_ms
        if running then
            if not s.lowest_upper then find_nearest(s) end
            local value = tonumber(price)
            if value >= s.lowest_upper or value <= s.highest_lower then
                local tail = '|' .. s.name .. '|' .. price .. '|' .. trade_id .. '|' .. at .. '|' .. received .. '|'
                    .. now .. '|tick' .. (after_gap and '|' .. silent_ms or '')
                if not fire_reached(s, price, tail) then
                    done = (a - 1) / 6
                    break
                end
                find_nearest(s)
            end
        end
        widen(s, price, seq, received)
        s.last = {price, at, trade_id, seq, received}
        s.ticks = s.ticks + 1
        if after_gap then s.gap, s.gap_seq = silent_ms, seq end
        s.received = tonumber(received)
    end
end

-- The last tick of a symbol, and what else has changed: each field costs.
local function store(s)
    local fields = {'price', s.last[1], 'at', s.last[2], 'trade_id', s.last[3], 'seq', s.last[4], 'received', s.last[5],
        'ticks', string.format('%d', s.ticks)}
    local function add(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
    if s.token ~= token then add('token', token) end
    if s.wider then add('b_low', s.b_low) add('b_high', s.b_high) end
    if s.fresh then add('b_seq', s.b_seq) add('b_at', s.b_at) add('cut', s.cut) end
    if s.gap then add('gap', s.gap) add('gap_seq', s.gap_seq) end
    redis.call('HSET', s.price_key, unpack(fields))
end

for _, s in ipairs(symbols) do
    if s.last then
        store(s)
        if publish then
            redis.call('PUBLISH', s.channel,
                '{"symbol":"' .. s.name .. '","price":"' .. s.last[1] .. '","timestamp":' .. s.last[2] .. '}')
        end
    end
end

-- One `trigger` event a call. It is news: failing, it must not fail the ticks.
local events = KEYS[4 + 6 * n]
if events and #fired > 0 then
    local deals = {}
    for i = 1, math.min(#fired, 2 * LISTED), 2 do
        local symbol, price = string.match(fired[i + 1], '^%d+|([^|]*)|([^|]*)|')
        deals[#deals + 1] = '{"dealId":' .. fired[i] .. ',"symbol":' .. cjson.encode(symbol) .. ',"price":"' .. price
            .. '","detector":"tick"}'
    end
    redis.pcall('XADD', events, 'MAXLEN', '~', KEEP_EVENTS, '*', 'type', 'trigger', 'data',
        '{"count":' .. #fired / 2 .. ',"deals":[' .. table.concat(deals, ',') .. ']}')
end

local nearest = {}
for i, s in ipairs(symbols) do
    nearest[3 * i - 2], nearest[3 * i - 1], nearest[3 * i] = s.name, s.nearest_lower or '', s.nearest_upper or ''
end

return {state, refused, fired, done, nearest}
