-- How many open deals are in each monitoring state.
SELECT monitoring, count(*) AS deals FROM deals WHERE status = 'open' GROUP BY monitoring ORDER BY monitoring
