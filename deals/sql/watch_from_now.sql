-- After a stop: watched deals are watched from their symbol's current price on, except for what had fired before.
UPDATE deals
SET watched_from_seq = current.seq, watched_from_at = current.at
FROM unnest(%(symbols)s::text[], %(seqs)s::bigint[], %(ats)s::timestamptz[]) AS current (symbol, seq, at)
WHERE deals.symbol = current.symbol AND deals.status = 'open' AND deals.monitoring IN ('pending', 'armed')
  AND deals.watched_from_seq < current.seq AND NOT deals.id = ANY(%(fired)s::bigint[])
