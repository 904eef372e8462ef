-- After a stop: watched deals are watched from their symbol's current price on, except for what had fired before.
-- Locks the deals in key order: closures by hand go on while the system is stopped.
WITH current AS MATERIALIZED (
    SELECT * FROM unnest(%(symbols)s::text[], %(seqs)s::bigint[], %(ats)s::timestamptz[]) AS t (symbol, seq, at)
), watched AS MATERIALIZED (
    SELECT deals.id, current.seq, current.at
    FROM deals JOIN current ON current.symbol = deals.symbol
    WHERE deals.status = 'open' AND deals.monitoring IN ('pending', 'armed') AND deals.watched_from_seq < current.seq
      AND NOT deals.id = ANY(%(fired)s::bigint[])
    ORDER BY deals.id
    FOR NO KEY UPDATE OF deals
)
UPDATE deals
SET watched_from_seq = watched.seq, watched_from_at = watched.at
FROM watched
WHERE deals.id = watched.id
