from django.apps import AppConfig


class DealsConfig(AppConfig):
    """What is true about a deal. Knows no queue and no Redis."""

    name = "deals"
    default_auto_field = "django.db.models.BigAutoField"
