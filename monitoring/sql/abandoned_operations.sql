-- Operations whose process died, and after which no resume or restart has succeeded; see workers.operations.abandoned.
SELECT id, kind
FROM operations
WHERE (state = 'abandoned' OR (state = 'running' AND heartbeat_at <= now() - %(abandoned_after)s))
  AND id > coalesce((SELECT max(id) FROM operations WHERE state = 'done' AND kind IN ('resume', 'restart')), 0)
ORDER BY id
