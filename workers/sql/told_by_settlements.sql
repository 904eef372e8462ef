-- The notifications that settlements wrote, each between its first and its last one. OFFSET 0 keeps one search of the primary
-- key a settlement.
SELECT accounts.user_id, told.id, told.kind, deals.id, deals.symbol, deals.close_reason, deals.close_price, deals.profit,
       told.created_at
FROM unnest(%(id)s::bigint[], %(first)s::bigint[], %(last)s::bigint[]) AS settled (id, first, last)
CROSS JOIN LATERAL (
    SELECT id, account_id, deal_id, kind, created_at
    FROM notifications
    WHERE id BETWEEN settled.first AND settled.last AND settlement_id = settled.id
    OFFSET 0
) AS told
JOIN deals ON deals.id = told.deal_id
JOIN accounts ON accounts.id = told.account_id
ORDER BY told.id
