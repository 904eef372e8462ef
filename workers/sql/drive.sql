-- Writes down who drives which symbols, and how. With only_free only where it is this process already, or the one before has
-- not been seen for 5 s. Returns the symbols written and the newest token that any process used for them.
INSERT INTO price_drivers AS kept (symbol, owner, token, seen_at, degraded_since, reason)
SELECT symbol, %(owner)s, %(token)s, clock_timestamp(), %(degraded_since)s, %(reason)s
FROM unnest(%(symbols)s::text[]) AS symbol
ORDER BY symbol
ON CONFLICT (symbol) DO UPDATE
SET owner = excluded.owner, token = greatest(kept.token, excluded.token), seen_at = excluded.seen_at,
    degraded_since = excluded.degraded_since, reason = excluded.reason
WHERE NOT %(only_free)s OR kept.owner = excluded.owner OR kept.seen_at < clock_timestamp() - interval '5 seconds'
RETURNING symbol, token
