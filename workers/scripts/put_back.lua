-- Gives a restarted Redis the prices of one symbol back that it has forgotten: each as a bucket of its own (or a few as
-- one), and the last one as the current price. Fires nothing: the book is rebuilt and the sweep looks at the buckets.
--
-- KEYS  1 price  2 window
-- ARGV  1 fencing token  2 last price  3 its exchange time  4 trade id or ''  5 sequence  6 received (ms); then for each
--       bucket, oldest first: first sequence, low, high, received (ms)
-- Returns how many buckets were new.

local h = redis.call('HMGET', KEYS[1], 'token', 'seq', 'b_seq', 'b_low', 'b_high', 'b_at')
if h[1] and tonumber(h[1]) > tonumber(ARGV[1]) then return 0 end
local known = tonumber(h[2] or '0')
local b_seq, b_low, b_high, b_at = h[3], h[4], h[5], h[6]
local new = 0
for a = 7, #ARGV, 4 do
    if tonumber(ARGV[a]) > known then
        if b_seq then redis.call('XADD', KEYS[2], b_seq .. '-0', 'low', b_low, 'high', b_high, 'at', b_at) end
        b_seq, b_low, b_high, b_at = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
        new = new + 1
    end
end
if new > 0 then
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'price', ARGV[2], 'at', ARGV[3], 'trade_id', ARGV[4], 'seq', ARGV[5],
        'received', ARGV[6], 'b_seq', b_seq, 'b_low', b_low, 'b_high', b_high, 'b_at', b_at, 'cut', ARGV[5])
end
return new
