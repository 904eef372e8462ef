-- Health: what no sweep has seen and when that was found, for ten minutes; the rows themselves stay.
SELECT symbol, unseen_from AS since, unseen_until AS until
FROM sweep_positions
WHERE unseen_until > now() - interval '12 minutes'
ORDER BY symbol
