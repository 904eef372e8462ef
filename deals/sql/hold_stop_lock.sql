-- Takes the stop lock in shared mode, then reads the state in a second statement, whose snapshot is newer than the lock.
SELECT pg_advisory_xact_lock_shared(7305);
SELECT state FROM system_state WHERE id = 1;
