-- How many dead letters are in each state. The table is trimmed to some hundred rows.
SELECT state, count(*) AS letters FROM dead_letters GROUP BY state
