-- What was done to a person or to one of his deals, and why; without who did it, which is somebody else's personal data.
SELECT audit_entries.id, at, action, target, reason, outcome
FROM audit_entries
WHERE target = 'user ' || %(user_id)s::text
   OR substring(target FROM 'deal (\d+)$')::bigint IN (
       SELECT deals.id FROM deals JOIN accounts ON accounts.id = deals.account_id WHERE accounts.user_id = %(user_id)s
   )
ORDER BY audit_entries.id
