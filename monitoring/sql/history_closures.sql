-- Closures by minute and reason, from a moment on. Uses deals_recently_closed.
SELECT date_trunc('minute', closed_at) AS minute, close_reason AS reason, count(*) AS deals
FROM deals
WHERE status = 'closed' AND closed_at >= %(since)s
GROUP BY 1, 2
ORDER BY 1, 2
