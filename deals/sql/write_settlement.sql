-- Closes locked deals from arrays: deals, ledger, events, notifications, accounts with statistics, and the settlement row.
-- What many deals of a batch share, as a rule all, comes once: `firing` is its number.
-- (By subscript: a join with it makes the planner expect a handful of deals, and search all of the list for each.)
-- The deals are named twice: by the join alone PostgreSQL reads all of them, up to some ten thousand, for each batch.
WITH input AS (
    SELECT id, profit, commission, payout, volume,
           (%(close_prices)s::numeric[])[firing] AS close_price, (%(reasons)s::text[])[firing] AS reason,
           (%(detectors)s::text[])[firing] AS detector, (%(trade_ids)s::bigint[])[firing] AS trade_id,
           (%(tick_ats)s::timestamptz[])[firing] AS tick_at, (%(received_ats)s::timestamptz[])[firing] AS received_at,
           (%(fired_ats)s::timestamptz[])[firing] AS fired_at, (%(gaps_ms)s::bigint[])[firing] AS gap_ms
    FROM unnest(
        %(ids)s::bigint[], %(firings)s::integer[], %(profits)s::numeric[], %(commissions)s::numeric[], %(payouts)s::numeric[],
        %(volumes)s::numeric[]
    ) AS t (id, firing, profit, commission, payout, volume)
), batch AS MATERIALIZED (
    SELECT nextval('settlements_id_seq') AS id
), closed AS (
    UPDATE deals
    SET status = 'closed', monitoring = 'ended', monitoring_since = %(closed_at)s, closed_at = %(closed_at)s,
        close_price = input.close_price, close_reason = input.reason, detector = input.detector,
        profit = input.profit, commission = input.commission, close_trade_id = input.trade_id,
        close_tick_at = input.tick_at, received_at = input.received_at, fired_at = input.fired_at,
        started_at = %(started_at)s, settlement_id = batch.id
    FROM input, batch
    WHERE deals.id = input.id AND deals.id = ANY(%(ids)s::bigint[]) AND deals.status = 'open'
    RETURNING deals.id, deals.account_id, deals.watch_version, deals.amount, deals.settlement_id, input.close_price,
              input.detector, input.profit, input.payout, input.volume, input.trade_id, input.gap_ms
), posted AS (
    INSERT INTO ledger_entries (account_id, deal_id, kind, amount, created_at)
    SELECT account_id, id, 'close', payout, %(closed_at)s FROM closed
    ORDER BY id
), recorded AS (
    INSERT INTO deal_events (deal_id, kind, version, price, trade_id, detector, at, error, gap_ms)
    SELECT id, 'closed', watch_version, close_price, trade_id, detector, %(closed_at)s, '', gap_ms FROM closed
    ORDER BY id
), told AS (
    INSERT INTO notifications (account_id, deal_id, kind, version, created_at, settlement_id)
    SELECT account_id, id, 'deal_closed', 0, %(closed_at)s, settlement_id FROM closed
    ORDER BY id
    RETURNING id, deal_id, settlement_id
), settled AS (
    INSERT INTO settlements (id, started_at, closed_count, first_notification_id, last_notification_id)
    SELECT settlement_id, %(started_at)s::timestamptz, count(*), min(id), max(id) FROM told
    GROUP BY settlement_id
), paid AS (
    UPDATE accounts
    SET balance = balance + sums.payout,
        margin = margin - sums.amount,
        closed_deals = closed_deals + sums.deals,
        winning_deals = winning_deals + sums.wins,
        total_volume = total_volume + sums.volume,
        total_amount = total_amount + sums.amount,
        largest_profit = greatest(largest_profit, sums.highest),
        largest_loss = least(largest_loss, sums.lowest)
    FROM (
        SELECT account_id, sum(payout) AS payout, sum(amount) AS amount, count(*) AS deals,
               count(*) FILTER (WHERE profit > 0) AS wins, sum(volume) AS volume,
               max(profit) AS highest, min(profit) AS lowest
        FROM closed
        GROUP BY account_id
    ) AS sums
    WHERE accounts.id = sums.account_id
)
SELECT deal_id, id, settlement_id FROM told
