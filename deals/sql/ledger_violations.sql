-- Whatever contradicts: balance = Σ postings, margin = Σ amounts of open deals, statistics = those of the closed deals,
-- one open and one close posting a deal, to its own account, and one closing notification a closed deal.
SELECT format('account %s: balance %s, postings %s', a.id, a.balance, coalesce(sum(l.amount), 0))
FROM accounts a LEFT JOIN ledger_entries l ON l.account_id = a.id
GROUP BY a.id, a.balance
HAVING a.balance <> coalesce(sum(l.amount), 0)
UNION ALL
SELECT format('account %s: margin %s, open deals %s', a.id, a.margin, coalesce(sum(d.amount), 0))
FROM accounts a LEFT JOIN deals d ON d.account_id = a.id AND d.status = 'open'
GROUP BY a.id, a.margin
HAVING a.margin <> coalesce(sum(d.amount), 0)
UNION ALL
SELECT format('account %s: statistics %s, closed deals %s', kept.id, kept.figures, true_ones.figures)
FROM (
    SELECT id, (closed_deals, winning_deals, total_amount, total_volume, largest_profit, largest_loss) AS figures
    FROM accounts
) AS kept
JOIN (
    SELECT a.id, (count(d.id)::integer, (count(d.id) FILTER (WHERE d.profit > 0))::integer, coalesce(sum(d.amount), 0),
                  coalesce(sum(d.amount * d.multiplier), 0), greatest(max(d.profit), 0), least(min(d.profit), 0)) AS figures
    FROM accounts a LEFT JOIN deals d ON d.account_id = a.id AND d.status = 'closed'
    GROUP BY a.id
) AS true_ones ON true_ones.id = kept.id
WHERE kept.figures <> true_ones.figures
UNION ALL
SELECT format('deal %s (%s): postings %s', d.id, d.status, coalesce(string_agg(l.kind || ' ' || l.amount, ', '), 'none'))
FROM deals d LEFT JOIN ledger_entries l ON l.deal_id = d.id AND l.account_id = d.account_id
GROUP BY d.id, d.status, d.amount, d.profit
HAVING sum(l.amount) FILTER (WHERE l.kind = 'open') IS DISTINCT FROM -d.amount
    OR sum(l.amount) FILTER (WHERE l.kind = 'close') IS DISTINCT FROM
       CASE WHEN d.status = 'closed' THEN d.amount + d.profit END
UNION ALL
SELECT format('deal %s (%s): %s closing notifications', d.id, d.status, count(n.id))
FROM deals d LEFT JOIN notifications n ON n.deal_id = d.id AND n.kind = 'deal_closed' AND n.account_id = d.account_id
GROUP BY d.id, d.status
HAVING count(n.id) <> CASE WHEN d.status = 'closed' THEN 1 ELSE 0 END
