-- Logs a finished job; of a message that ran twice the last run counts. The commit need not wait for the disk: no deal rests on
-- this log, and what a crash of PostgreSQL loses of it is half a second. Runs outside of any transaction.
INSERT INTO job_log (task_id, task, deals, closed, started_at, finished_at, duration_ms, state, error)
SELECT %(task_id)s, %(task)s, %(deals)s, %(closed)s, %(started_at)s::timestamptz, %(finished_at)s, %(duration_ms)s, %(state)s,
       %(error)s
WHERE (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
ON CONFLICT (task_id) DO UPDATE
SET task = excluded.task, deals = excluded.deals, closed = excluded.closed, started_at = excluded.started_at,
    finished_at = excluded.finished_at, duration_ms = excluded.duration_ms, state = excluded.state, error = excluded.error
