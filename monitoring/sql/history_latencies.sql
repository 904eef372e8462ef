-- Percentiles (ms) of the way from the tick's receipt to the commit, by minute, from a moment on; closures by hand are
-- left out. Uses deals_recently_closed.
SELECT date_trunc('minute', deals.closed_at) AS minute, count(*) AS deals,
       percentile_cont(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY
           extract(epoch FROM settlements.committed_at - deals.received_at)::double precision * 1000) AS ms
FROM deals JOIN settlements ON settlements.id = deals.settlement_id
WHERE deals.status = 'closed' AND deals.closed_at >= %(since)s AND deals.detector <> 'manual'
  AND settlements.committed_at IS NOT NULL AND deals.received_at IS NOT NULL
GROUP BY 1
ORDER BY 1
