-- Marks settlements as told while their notifications go out, and says which nobody has told before; what another session
-- is telling is left to it. The commit time is written with it where it is missing: it hangs on the version of the row.
-- The commit need not wait for the disk: one that a crash of PostgreSQL loses only has the sweep publish again. Must be the
-- only thing its transaction writes.
UPDATE settlements
SET told_at = clock_timestamp(),
    committed_at = coalesce(committed_at, CASE
        WHEN current_setting('track_commit_timestamp') = 'on' THEN pg_xact_commit_timestamp(xmin)
        ELSE clock_timestamp()
    END)
WHERE id IN (
    SELECT id
    FROM settlements
    WHERE id = ANY(%(ids)s::bigint[]) AND told_at IS NULL
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
) AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
RETURNING id, first_notification_id, last_notification_id
