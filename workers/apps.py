from django.apps import AppConfig


class WorkersConfig(AppConfig):
    """How the domain is driven: prices, trigger book, tasks, control."""

    name = "workers"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Bind the quote board and listen to what changes in `deals`."""
        from deals import quotes
        from deals.signals import deal_changed, settled
        from workers import counters, job_log, queues, receivers, worker_start  # noqa: F401 - worker_start connects itself
        from workers.prices import RedisQuoteBoard

        quotes.bind(RedisQuoteBoard())
        deal_changed.connect(receivers.on_deal_changed, dispatch_uid="workers.on_deal_changed")
        settled.connect(receivers.on_settled, dispatch_uid="workers.on_settled")
        counters.connect_signals()
        job_log.connect_signals()
        queues.connect_signals()
