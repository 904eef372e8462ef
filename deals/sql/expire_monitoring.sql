-- Ends the monitoring of open deals whose time has run, tells their users, and returns the deals that it ended.
WITH expired AS (
    UPDATE deals
    SET monitoring = 'expired', monitoring_since = %(now)s, watch_version = watch_version + 1
    WHERE id IN (
        SELECT id
        FROM deals
        WHERE id = ANY(%(ids)s::bigint[]) AND status = 'open' AND monitoring IN ('pending', 'armed')
          AND watch_expires_at <= %(now)s
        ORDER BY id
        FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING id, account_id, watch_version
), recorded AS (
    INSERT INTO deal_events (deal_id, kind, version, at, error)
    SELECT id, 'expired', watch_version, %(now)s, '' FROM expired
), told AS (
    INSERT INTO notifications (account_id, deal_id, kind, version, created_at)
    SELECT account_id, id, 'monitoring_expired', watch_version, %(now)s FROM expired
)
SELECT id FROM expired
