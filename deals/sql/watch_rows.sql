-- What the trigger book must hold for some deals, in key order.
SELECT id, symbol, direction, upper_trigger, lower_trigger, watch_version, watched_from_seq, monitoring
FROM deals
WHERE id = ANY(%(ids)s::bigint[])
ORDER BY id
