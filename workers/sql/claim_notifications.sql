-- Marks notifications of closures as published while they go out, and says which nobody has published before; who else
-- publishes skips locked rows. The commit need not wait for the disk: one that a crash of PostgreSQL loses only has the
-- sweep publish again. Must be the only thing its transaction writes.
UPDATE notifications
SET published_at = clock_timestamp()
WHERE id = ANY(%(ids)s::bigint[]) AND published_at IS NULL
  AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
RETURNING id
