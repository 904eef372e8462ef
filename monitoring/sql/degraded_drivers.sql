-- Health: how many prices processes close deals themselves, and since when; who has not said so for 15 s does no more.
SELECT count(DISTINCT owner) AS processes, min(degraded_since) AS since
FROM price_drivers
WHERE degraded_since IS NOT NULL AND seen_at > clock_timestamp() - interval '15 seconds'
