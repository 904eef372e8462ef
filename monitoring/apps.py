from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    """Watches: health, statistics, metrics, the operator's view."""

    name = "monitoring"

    def ready(self) -> None:
        """Give the facade its health, and health the operations; let metrics ask PostgreSQL along with it."""
        from monitoring import metrics, operations
        from monitoring.health import workers_health
        from workers.manager import worker_manager

        worker_manager.bind_health(workers_health)
        operations.watch()
        metrics.watch()
