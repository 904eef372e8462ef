-- Locks a user's account, and reads what opening a deal needs of it.
SELECT id, balance, erased_at FROM accounts WHERE user_id = %(user_id)s FOR NO KEY UPDATE
