-- The commit time of settlements whose process died right after their commit, where PostgreSQL tracks it. Looks at the
-- newest settlements only; those of the last minute may still be written down by their own process.
UPDATE settlements
SET committed_at = pg_xact_commit_timestamp(xmin)
WHERE id > (SELECT coalesce(max(id), 0) - %(newest)s FROM settlements)
  AND committed_at IS NULL AND started_at < now() - interval '1 minute'
  AND current_setting('track_commit_timestamp') = 'on' AND pg_xact_commit_timestamp(xmin) IS NOT NULL
