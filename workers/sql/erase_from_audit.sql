-- Takes a person out of the audit log: name and address where he acted, reasons where he or one of his deals was the target.
WITH theirs AS (
    SELECT deals.id FROM deals JOIN accounts ON accounts.id = deals.account_id WHERE accounts.user_id = %(user_id)s
), found AS (
    SELECT id, user_id IS NOT DISTINCT FROM %(user_id)s AS acted,
           action <> 'erase_user' AND (
               target = 'user ' || %(user_id)s::text
               OR substring(target FROM 'deal (\d+)$')::bigint IN (SELECT id FROM theirs)
           ) AS suffered
    FROM audit_entries
)
UPDATE audit_entries
SET who = CASE WHEN found.acted THEN 'user ' || %(user_id)s::text ELSE audit_entries.who END,
    source = CASE WHEN found.acted THEN %(erased)s ELSE audit_entries.source END,
    reason = CASE WHEN found.suffered AND audit_entries.reason <> '' THEN %(erased)s ELSE audit_entries.reason END
FROM found
WHERE found.id = audit_entries.id
  AND ((found.acted AND (audit_entries.who <> 'user ' || %(user_id)s::text OR audit_entries.source <> %(erased)s))
       OR (found.suffered AND audit_entries.reason NOT IN ('', %(erased)s)))
