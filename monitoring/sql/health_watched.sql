-- Health: how many deals of each symbol are watched, how many of them are to be armed, and those that wait for more than 5 s.
-- Both halves read an index each (deals_watched_upper or _lower, deals_pending), not the table.
WITH watched AS (
    SELECT symbol, count(*) AS deals
    FROM deals
    WHERE status = 'open' AND monitoring IN ('pending', 'armed')
    GROUP BY symbol
), pending AS (
    SELECT symbol, count(*) AS deals,
           count(*) FILTER (WHERE monitoring_since < now() - interval '5 seconds') AS late,
           min(monitoring_since) FILTER (WHERE monitoring_since < now() - interval '5 seconds') AS late_since
    FROM deals
    WHERE status = 'open' AND monitoring = 'pending'
    GROUP BY symbol
)
SELECT watched.symbol, watched.deals AS watched, coalesce(pending.deals, 0) AS pending, coalesce(pending.late, 0) AS late,
       pending.late_since
FROM watched LEFT JOIN pending ON pending.symbol = watched.symbol
