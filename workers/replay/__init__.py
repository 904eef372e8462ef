"""Runs a recorded tape through the real path: source → board and book → Celery → PostgreSQL, all of it scratch."""
