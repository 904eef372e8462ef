-- Closures of the last minutes by reason and detector. Uses deals_recently_closed.
SELECT close_reason AS reason, detector, count(*) AS deals
FROM deals
WHERE status = 'closed' AND closed_at > now() - make_interval(mins => %(minutes)s)
GROUP BY close_reason, detector
ORDER BY close_reason, detector
