-- Gives a Redis that was restarted or emptied the prices of one symbol back: each as a bucket of its own (or a few as one),
-- and the last one as the current price. Older buckets stay; from the first one given on the given ones count.
-- Fires nothing: the book is rebuilt and the sweep looks at the buckets.
--
-- KEYS  1 price  2 window
-- ARGV  1 fencing token  2 last price  3 its exchange time  4 trade id or ''  5 sequence  6 received (ms); then for each
--       bucket, oldest first: first sequence, low, high, received (ms)
-- Returns how many buckets were written: 0 when Redis knows all of them, or another process has driven the symbol since.

local h = redis.call('HMGET', KEYS[1], 'token', 'seq', 'b_seq', 'b_low', 'b_high', 'b_at')
if h[1] and tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
local first, known = tonumber(ARGV[7]), tonumber(h[2] or '0')
local entries = redis.call('XRANGE', KEYS[2], '-', '+')
local oldest = entries[1] and tonumber(string.match(entries[1][1], '^%d+')) or h[3] and tonumber(h[3]) or math.huge
if known >= tonumber(ARGV[5]) and oldest <= first then return 0 end

local function store(seq, low, high, at)
    redis.call('XADD', KEYS[2], seq .. '-0', 'low', low, 'high', high, 'at', at)
end

redis.call('DEL', KEYS[2])
for _, entry in ipairs(entries) do
    local seq = string.match(entry[1], '^%d+')
    if tonumber(seq) < first then store(seq, entry[2][2], entry[2][4], entry[2][6]) end
end
if h[3] and tonumber(h[3]) < first then store(h[3], h[4], h[5], h[6]) end
for a = 7, #ARGV - 4, 4 do store(ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]) end
local b = #ARGV - 3
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'price', ARGV[2], 'at', ARGV[3], 'trade_id', ARGV[4], 'seq', ARGV[5],
    'received', ARGV[6], 'b_seq', ARGV[b], 'b_low', ARGV[b + 1], 'b_high', ARGV[b + 2], 'b_at', ARGV[b + 3],
    'cut', ARGV[5])
return (#ARGV - 6) / 4
