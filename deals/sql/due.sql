-- The sweep: watched deals whose trigger lies inside a symbol's price window, whatever the book says. Only buckets that
-- begin after the price a deal was checked against (watched_from_seq) count. Uses deals_watched_upper and _lower.
WITH spans AS MATERIALIZED (
    SELECT * FROM unnest(%(symbols)s::text[], %(lows)s::numeric[], %(highs)s::numeric[]) AS t (symbol, low, high)
), buckets AS MATERIALIZED (
    SELECT *
    FROM unnest(%(bucket_symbols)s::text[], %(bucket_seqs)s::bigint[], %(bucket_lows)s::numeric[],
                %(bucket_highs)s::numeric[]) AS t (symbol, first_seq, low, high)
), candidates AS (
    SELECT deals.*
    FROM spans JOIN deals ON deals.symbol = spans.symbol AND deals.upper_trigger <= spans.high
    WHERE deals.status = 'open' AND deals.monitoring IN ('pending', 'armed')
    UNION
    SELECT deals.*
    FROM spans JOIN deals ON deals.symbol = spans.symbol AND deals.lower_trigger >= spans.low
    WHERE deals.status = 'open' AND deals.monitoring IN ('pending', 'armed')
)
SELECT due.id, due.symbol, due.direction, due.upper_trigger, due.lower_trigger, due.watch_version, reached.low, reached.high
FROM candidates AS due
CROSS JOIN LATERAL (
    SELECT min(buckets.low) AS low, max(buckets.high) AS high
    FROM buckets
    WHERE buckets.symbol = due.symbol AND buckets.first_seq > due.watched_from_seq
) AS reached
WHERE due.upper_trigger <= reached.high OR due.lower_trigger >= reached.low
ORDER BY due.id
LIMIT %(limit)s
