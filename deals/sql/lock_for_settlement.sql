-- Locks the open deals of a batch in key order, then all their accounts in key order, and reads what settlement needs.
-- ARRAY(…) reads `due` to its end before the first account is locked; a join or IN may be planned as a nested loop that
-- locks an account after the first deal and the other deals later.
WITH due AS MATERIALIZED (
    SELECT id, account_id, symbol, direction, amount, multiplier, open_price, upper_trigger, lower_trigger,
           monitoring, watch_version
    FROM deals
    WHERE id = ANY(%(ids)s::bigint[]) AND status = 'open'
    ORDER BY id
    FOR NO KEY UPDATE
), holders AS MATERIALIZED (
    SELECT id, user_id
    FROM accounts
    WHERE id = ANY(ARRAY(SELECT account_id FROM due))
    ORDER BY id
    FOR NO KEY UPDATE
)
SELECT due.*, holders.user_id
FROM due JOIN holders ON holders.id = due.account_id
ORDER BY due.id
