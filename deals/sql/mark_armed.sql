-- Records that the book holds these deals at these versions; what changed meanwhile is left alone.
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
    )
    RETURNING id, watch_version
)
INSERT INTO deal_events (deal_id, kind, version, at, error)
SELECT id, 'armed', watch_version, %(now)s, '' FROM armed
