from django.apps import AppConfig


class CryptocrazeConfig(AppConfig):
    """The composition root: it has no tables, but checks of the settings."""

    name = "cryptocraze"

    def ready(self) -> None:
        """Register the checks."""
        from cryptocraze import checks, deploy_checks

        checks.register()
        deploy_checks.register()
