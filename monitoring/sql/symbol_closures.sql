-- The latest closures of one symbol since a moment, newest first. There is no index by symbol, because every closure would pay
-- for it: the scan goes through the closures of all symbols, newest first, and ends after the last 50,000 of them.
SELECT id, closed_at, close_price, close_reason, profit
FROM (
    SELECT id, symbol, closed_at, close_price, close_reason, profit
    FROM deals
    WHERE status = 'closed' AND closed_at >= %(since)s
    ORDER BY closed_at DESC
    LIMIT 50000
) AS recent
WHERE symbol = %(symbol)s
LIMIT %(most)s
