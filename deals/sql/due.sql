-- The sweep: watched deals whose trigger lies inside a symbol's price window, whatever the book says. Only buckets that
-- begin after the price a deal was checked against (watched_from_seq) count. What is known to have fired is left out: `but`
-- holds `id|version`, which PostgreSQL hashes. Uses deals_watched_upper and _lower.
-- PostgreSQL can't know how few deals a window reaches and takes a third of them for granted: it would read the whole
-- table. OFFSET 0 keeps one search a symbol, and `> 0`, true of every trigger, makes it a range, assumed to be narrow; `< 1e12` likewise.
WITH spans AS MATERIALIZED (
    SELECT * FROM unnest(%(symbols)s::text[], %(lows)s::numeric[], %(highs)s::numeric[]) AS t (symbol, low, high)
), buckets AS MATERIALIZED (
    SELECT *
    FROM unnest(%(bucket_symbols)s::text[], %(bucket_seqs)s::bigint[], %(bucket_lows)s::numeric[],
                %(bucket_highs)s::numeric[]) AS t (symbol, first_seq, low, high)
), candidates AS (
    SELECT risen.*
    FROM spans CROSS JOIN LATERAL (
        SELECT id, symbol, direction, upper_trigger, lower_trigger, watch_version, watched_from_seq, watched_from_at,
               monitoring
        FROM deals
        WHERE symbol = spans.symbol AND upper_trigger > 0 AND upper_trigger <= spans.high
          AND status = 'open' AND monitoring IN ('pending', 'armed')
        OFFSET 0
    ) AS risen
    UNION
    SELECT fallen.*
    FROM spans CROSS JOIN LATERAL (
        SELECT id, symbol, direction, upper_trigger, lower_trigger, watch_version, watched_from_seq, watched_from_at,
               monitoring
        FROM deals
        WHERE symbol = spans.symbol AND lower_trigger >= spans.low AND lower_trigger < 1e12
          AND status = 'open' AND monitoring IN ('pending', 'armed')
        OFFSET 0
    ) AS fallen
)
SELECT due.id, due.symbol, due.direction, due.upper_trigger, due.lower_trigger, due.watch_version, reached.low, reached.high,
       due.monitoring, due.watched_from_seq, due.watched_from_at
FROM candidates AS due
CROSS JOIN LATERAL (
    SELECT min(buckets.low) AS low, max(buckets.high) AS high
    FROM buckets
    WHERE buckets.symbol = due.symbol AND buckets.first_seq > due.watched_from_seq
) AS reached
WHERE due.id > %(after)s
  AND (due.id || '|' || due.watch_version) <> ALL (%(but)s::text[])
  AND (due.upper_trigger <= reached.high OR due.lower_trigger >= reached.low)
ORDER BY due.id
LIMIT %(limit)s
