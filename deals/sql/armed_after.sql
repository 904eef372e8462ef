-- Rebuilding the book: the next watched deals by id, a row a symbol. `deals` is text as the arming script takes it, six
-- words a deal (id, version, watched-from sequence, upper, lower, which of the two is the Stop Loss), for those that are
-- `armed`; `pending` are the ids of those that are still to be armed. Uses deals_watched.
WITH next AS MATERIALIZED (
    SELECT id, symbol, direction, upper_trigger, lower_trigger, watch_version, watched_from_seq, monitoring
    FROM deals
    WHERE id > %(after)s AND status = 'open' AND monitoring IN ('pending', 'armed')
    ORDER BY id
    LIMIT %(limit)s
)
SELECT symbol, max(id) AS last_id, count(*) AS watched,
       string_agg(
           id::text || ' ' || watch_version::text || ' ' || watched_from_seq::text || ' '
           || coalesce(trim_scale(upper_trigger)::text, '') || ' ' || coalesce(trim_scale(lower_trigger)::text, '') || ' '
           || CASE direction WHEN 'up' THEN 'L' ELSE 'U' END,
           ' '
       ) FILTER (WHERE monitoring = 'armed') AS deals,
       coalesce(array_agg(id) FILTER (WHERE monitoring = 'pending'), '{}') AS pending
FROM next
GROUP BY symbol
