-- Records that the book holds these deals at these versions; what changed meanwhile is left alone. The commit need not
-- wait for the disk: what a crash of PostgreSQL loses of it is `pending` again, and the sweep arms it once more. Must be
-- the only thing its transaction writes. Returns the ids of those that it was recorded of.
WITH armed AS (
    UPDATE deals
    SET monitoring = 'armed', monitoring_since = %(now)s
    WHERE id IN (
        SELECT deals.id
        FROM deals
        JOIN unnest(%(ids)s::bigint[], %(versions)s::bigint[]) AS held (id, version) ON held.id = deals.id
        WHERE deals.status = 'open' AND deals.monitoring = 'pending' AND deals.watch_version = held.version
        ORDER BY deals.id
        FOR NO KEY UPDATE OF deals
    ) AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
    RETURNING id, watch_version
)
INSERT INTO deal_events (deal_id, kind, version, at, error)
SELECT id, 'armed', watch_version, %(now)s, '' FROM armed
RETURNING deal_id
