-- Opens a deal: the row, its posting, its first event, and the move from balance to margin.
WITH opened AS (
    INSERT INTO deals (
        account_id, client_id, symbol, direction, amount, multiplier, open_price, take_profit, stop_loss, upper_trigger,
        lower_trigger, status, opened_at, monitoring, monitoring_since, watch_version, watched_from_seq, watched_from_at,
        watch_expires_at
    )
    VALUES (
        %(account_id)s, %(client_id)s, %(symbol)s, %(direction)s, %(amount)s, %(multiplier)s, %(open_price)s,
        %(take_profit)s, %(stop_loss)s, %(upper_trigger)s, %(lower_trigger)s, %(status)s, %(opened_at)s, %(monitoring)s,
        %(monitoring_since)s, %(watch_version)s, %(watched_from_seq)s, %(watched_from_at)s, %(watch_expires_at)s
    )
    RETURNING id, account_id, amount, watch_version, open_price, opened_at
), posted AS (
    INSERT INTO ledger_entries (account_id, deal_id, kind, amount, created_at)
    SELECT account_id, id, 'open', -amount, opened_at FROM opened
), recorded AS (
    INSERT INTO deal_events (deal_id, kind, version, price, at, error)
    SELECT id, 'opened', watch_version, open_price, opened_at, '' FROM opened
), locked AS (
    UPDATE accounts
    SET balance = balance - opened.amount, margin = margin + opened.amount
    FROM opened
    WHERE accounts.id = opened.account_id
)
SELECT id FROM opened
