-- Percentiles (ms) of the ways from the tick to the commit, of deals closed in the last minutes by their triggers.
-- The tick counts from its receipt here: what lies before is the exchange's and the network's.
WITH closed AS MATERIALIZED (
    SELECT deals.received_at, deals.fired_at, settlements.started_at, settlements.committed_at
    FROM deals JOIN settlements ON settlements.id = deals.settlement_id
    WHERE deals.status = 'closed' AND deals.closed_at > now() - make_interval(mins => %(minutes)s)
      AND deals.detector <> 'manual'
), ways AS (
    SELECT way.stage, extract(epoch FROM way.took)::double precision * 1000 AS ms
    FROM closed CROSS JOIN LATERAL (
        VALUES ('tick_to_fired', closed.fired_at - closed.received_at),
               ('fired_to_started', closed.started_at - closed.fired_at),
               ('started_to_committed', closed.committed_at - closed.started_at),
               ('tick_to_committed', closed.committed_at - closed.received_at)
    ) AS way (stage, took)
    WHERE way.took IS NOT NULL
)
SELECT stage, count(*) AS deals,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99,
       max(ms) AS max
FROM ways
GROUP BY stage
