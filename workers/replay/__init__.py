"""Runs a recorded tape through the real path: source → board and book in Redis → Celery → PostgreSQL, all of it scratch."""
