-- Writes down when a settlement was committed: PostgreSQL's own commit time where it is tracked, else now.
UPDATE settlements
SET committed_at = CASE
    WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_xact_commit_timestamp(xmin)
    ELSE clock_timestamp()
END
WHERE id = ANY(%(ids)s::bigint[]) AND committed_at IS NULL
RETURNING committed_at
