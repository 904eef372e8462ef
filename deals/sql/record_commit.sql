-- Writes down when a settlement was committed, unless who told its users has: PostgreSQL's own commit time where it is
-- tracked, else now. The commit of this need not wait for the disk: what a crash of PostgreSQL loses of it is written by
-- record_lost_commits. Runs outside of any transaction.
UPDATE settlements
SET committed_at = coalesce(committed_at, CASE
    WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_xact_commit_timestamp(xmin)
    ELSE clock_timestamp()
END)
WHERE id = ANY(%(ids)s::bigint[])
  AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
RETURNING committed_at
