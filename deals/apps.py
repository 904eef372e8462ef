from django.apps import AppConfig


class DealsConfig(AppConfig):
    """What is true about a deal. Knows no queue and no Redis."""

    name = "deals"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Where a test wants this process killed. Raises ImproperlyConfigured outside of tests."""
        from django.conf import settings

        from deals import crash_points

        crash_points.arm(settings.CRASH_AT)
