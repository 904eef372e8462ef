-- Resolves the dead letters (of some deals, or of all) whose deal is closed or watched anew, and says which.
UPDATE dead_letters AS letter
SET state = 'resolved'
FROM deals
WHERE deals.id = letter.deal_id
  AND (%(ids)s::bigint[] IS NULL OR letter.deal_id = ANY (%(ids)s::bigint[]))
  AND (
      (letter.state = 'failed' AND deals.monitoring <> 'dead')
      OR (letter.state = 'requeued' AND (deals.status = 'closed' OR deals.watch_version <> letter.version))
  )
RETURNING letter.id
