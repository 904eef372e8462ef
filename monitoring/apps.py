from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    """Watches: health, statistics, metrics, the operator's view."""

    name = "monitoring"

    def ready(self) -> None:
        """Give the facade its health, and health its further checks; let metrics ask along with it."""
        from monitoring import degraded, metrics, operations, unseen
        from monitoring.health import workers_health
        from workers.manager import worker_manager

        worker_manager.bind_health(workers_health)
        operations.watch()
        degraded.watch()
        unseen.watch()
        metrics.watch()
