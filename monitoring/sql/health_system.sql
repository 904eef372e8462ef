-- Health: the system state, what cannot be settled, and how settling went lately. One row.
-- Closures by hand say nothing about watching and are left out.
WITH unwatched AS (
    SELECT
        count(*) FILTER (WHERE monitoring = 'dead') AS dead,
        min(monitoring_since) FILTER (WHERE monitoring = 'dead') AS dead_since,
        count(*) FILTER (WHERE monitoring = 'removed') AS removed,
        count(*) FILTER (WHERE monitoring = 'expired') AS expired
    FROM deals
    WHERE status = 'open' AND monitoring IN ('removed', 'expired', 'dead')
), letters AS (
    SELECT count(*) AS failed, min(last_failed_at) AS failed_since FROM dead_letters WHERE state = 'failed'
), recent AS (
    SELECT
        count(*) FILTER (WHERE closed_at > now() - interval '5 minutes') AS closed_5m,
        count(*) AS closed_10m,
        count(*) FILTER (WHERE detector = 'sweep') AS swept_10m
    FROM deals
    WHERE status = 'closed' AND closed_at > now() - interval '10 minutes' AND detector <> 'manual'
), attempts AS (
    SELECT count(*) AS failed FROM deal_events WHERE kind = 'attempt' AND at > now() - interval '5 minutes'
), jobs AS (
    SELECT count(*) AS failed FROM job_log WHERE state = 'failed' AND finished_at > now() - interval '5 minutes'
)
SELECT
    now() AS now, system_state.state, system_state.changed_at AS state_since, system_state.reason AS state_reason,
    unwatched.dead, unwatched.dead_since, unwatched.removed, unwatched.expired,
    letters.failed AS letters, letters.failed_since AS letters_since,
    recent.closed_5m, attempts.failed + jobs.failed AS errors_5m, recent.closed_10m, recent.swept_10m
FROM system_state, unwatched, letters, recent, attempts, jobs
WHERE system_state.id = 1
