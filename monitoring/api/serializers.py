"""What operators read. Names are camelCase on the wire; times are UTC, durations ms unless the name says otherwise."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from deals.api.fields import PlainDecimal, SignedDecimal
from deals.models import CloseReason, Deal, Monitoring
from monitoring import closures, health, history, prices, processes, queues, stats, verdicts
from workers.models import JobLog

# --- health ------------------------------------------------------------------------------------------------------


class CheckSerializer(serializers.Serializer[verdicts.Check]):
    """One thing that was looked at."""

    name = serializers.CharField(help_text="Stable name of the check.")
    is_healthy = serializers.BooleanField(help_text="Whether the figure is within its limit.")
    figure = serializers.FloatField(allow_null=True, help_text="What was found, in `unit`; null: not to be had.")
    limit = serializers.FloatField(allow_null=True, help_text="The worst healthy figure, in `unit`.")
    unit = serializers.CharField(help_text="What figure and limit count: s, deals, percent of 5 minutes, …")
    since = serializers.DateTimeField(allow_null=True, help_text="Since when it is bad; null when it is healthy.")
    reason = serializers.CharField(allow_null=True, help_text="What is wrong, in a sentence; null when it is healthy.")


class ComponentSerializer(serializers.Serializer[health.Component]):
    """One of the four components."""

    name = serializers.CharField(help_text="`queueManager`, `priceMonitor`, `orderClosure` or `orderWorker`.")
    is_healthy = serializers.BooleanField(help_text="Whether all its checks are.")
    checks = CheckSerializer(many=True, help_text="Everything that was looked at.")


class OverallSerializer(serializers.Serializer[Any]):
    """How much is wrong."""

    checks = serializers.IntegerField(help_text="Number of checks.")
    failing_checks = serializers.IntegerField(help_text="Number of checks that are not healthy.")
    watched_deals = serializers.IntegerField(
        allow_null=True, help_text="Open deals that are watched; null while PostgreSQL does not answer."
    )
    removed_deals = serializers.IntegerField(
        allow_null=True, help_text="Open deals that operators took out of monitoring; null as above."
    )
    expired_deals = serializers.IntegerField(
        allow_null=True, help_text="Open deals whose monitoring time has run out; null as above."
    )
    fired_deals = serializers.IntegerField(
        allow_null=True, help_text="Deals that have fired and are not settled; null while Redis does not answer."
    )


class HealthSerializer(serializers.Serializer[health.Report]):
    """Whether every deal is protected, and if not, why."""

    is_healthy = serializers.BooleanField(help_text="Whether all components are.")
    status = serializers.CharField(
        help_text="`healthy`, `unhealthy`, or `degraded`: the prices process closes deals itself meanwhile."
    )
    state = serializers.CharField(
        allow_null=True,
        help_text="`running`, `draining`, `stopped` or `halted`; null while PostgreSQL does not answer.",
    )
    state_since = serializers.DateTimeField(allow_null=True, help_text="When the state last changed; null as above.")
    state_reason = serializers.CharField(allow_null=True, help_text="Why it last changed; null as above.")
    uptime = serializers.IntegerField(
        source="uptime_ms",
        allow_null=True,
        help_text="ms since the state last became `running`, whatever processes were restarted since; 0 in any other "
        "state; null while PostgreSQL does not answer.",
    )
    checked_at = serializers.DateTimeField(help_text="When this was looked at.")
    overall = serializers.SerializerMethodField(help_text="How much is wrong.")
    components = ComponentSerializer(many=True, help_text="The four components.")

    def get_overall(self, report: health.Report) -> OverallSerializer:
        """The figures over all components."""
        checks = [check for component in report.components for check in component.checks]
        database, redis = report.facts.database, report.facts.redis
        watched = None if database is None else database.watched
        overall = {
            "checks": len(checks),
            "failing_checks": sum(not check.is_healthy for check in checks),
            "watched_deals": None if watched is None else sum(row.watched for row in watched),
            "removed_deals": None if database is None else database.system.removed,
            "expired_deals": None if database is None else database.system.expired,
            "fired_deals": None if redis is None else redis.fired,
        }
        return OverallSerializer(overall).data  # type: ignore[return-value]  # the schema's type


# --- processes and prices ----------------------------------------------------------------------------------------


class ProcessSerializer(serializers.Serializer[processes.Process]):
    """A process that gave a sign of life within 15 s. What its role does not know is null."""

    role = serializers.CharField(help_text="`prices`, `worker`, `beat` or `web`.")
    name = serializers.CharField(help_text="Unique within the role.")
    pid = serializers.IntegerField(help_text="Process id on its machine.")
    started_at = serializers.DateTimeField(help_text="When it began to give signs of life.")
    seen_at = serializers.DateTimeField(help_text="Its last sign of life; one comes every 2 s.")
    age_ms = serializers.IntegerField(help_text="Age of that sign, ms.")
    queues = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Workers: the queues that it serves."
    )
    concurrency = serializers.IntegerField(allow_null=True, help_text="Workers: how many tasks it runs at once.")
    active = serializers.IntegerField(allow_null=True, help_text="Workers: how many tasks it ran at that sign.")
    source = serializers.CharField(  # type: ignore[assignment]  # a field of that name
        allow_null=True, help_text="Prices: where the ticks come from."
    )
    feed_age_ms = serializers.IntegerField(allow_null=True, help_text="Prices: age of the last good tick, ms.")
    held = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Prices: the symbols that it drives."
    )
    accepted = serializers.IntegerField(allow_null=True, help_text="Prices: good ticks since it started.")
    pending = serializers.IntegerField(allow_null=True, help_text="Prices: good ticks that wait for Redis.")
    listeners = serializers.IntegerField(allow_null=True, help_text="Web: how many listen to its live stream.")


class NearTriggerSerializer(serializers.Serializer[prices.NearTrigger]):
    """An armed deal's trigger."""

    deal_id = serializers.IntegerField(help_text="The deal.")
    price = PlainDecimal(help_text="The trigger, USDT.")
    distance_percent = PlainDecimal(allow_null=True, help_text="From the price, % of the price; null without a price.")


class SymbolPriceSerializer(serializers.Serializer[prices.SymbolPrice]):
    """A symbol. What depends on a price is null before the first one."""

    symbol = serializers.CharField(help_text="For example BTCUSDT.")
    price = PlainDecimal(allow_null=True, help_text="The last price, USDT a unit.")
    at = serializers.DateTimeField(allow_null=True, help_text="Its exchange time.")
    received_at = serializers.DateTimeField(allow_null=True, help_text="When it reached us.")
    age_ms = serializers.IntegerField(allow_null=True, help_text="By exchange time or receipt, whichever is older, ms.")
    is_fresh = serializers.BooleanField(help_text="False: too old, or none; nothing fires on it.")
    ticks = serializers.IntegerField(help_text="Ticks written since Redis began.")
    armed = serializers.IntegerField(help_text="Deals that the trigger book holds.")
    nearest_upper = NearTriggerSerializer(allow_null=True, help_text="The lowest upper trigger; null: none.")
    nearest_lower = NearTriggerSerializer(allow_null=True, help_text="The highest lower trigger; null: none.")


class DroppedSerializer(serializers.Serializer[prices.Dropped]):
    """Ticks that did not count."""

    reason = serializers.CharField(help_text="`bad_price`, `stale`, `future`, `out_of_order`, `repeated`, …")
    ticks = serializers.IntegerField(help_text="How many since Redis began.")


class FeedSerializer(serializers.Serializer[prices.Prices]):
    """The feed and every symbol."""

    is_fresh = serializers.BooleanField(help_text="Whether every symbol has a fresh price.")
    stale_after_ms = serializers.IntegerField(help_text="Age at which a price is stale, ms.")
    processes = ProcessSerializer(many=True, help_text="The prices processes that live.")
    dropped = DroppedSerializer(many=True, help_text="Ticks that did not count, by reason.")
    symbols = SymbolPriceSerializer(many=True, help_text="Every symbol that can be traded.")


# --- queues ------------------------------------------------------------------------------------------------------


class QueueSerializer(serializers.Serializer[queues.QueueFigures]):
    """A queue."""

    name = serializers.CharField(help_text="`closures`, `sweep` or `default`.")
    depth = serializers.IntegerField(help_text="Messages that wait; those that workers hold do not count.")
    oldest_age_ms = serializers.IntegerField(
        allow_null=True,
        help_text="Age of the oldest waiting message, ms; null when none waits, and on RabbitMQ, which does not tell.",
    )
    active = serializers.IntegerField(help_text="Tasks that workers run now.")
    reserved = serializers.IntegerField(help_text="Tasks that workers hold and do not run yet.")
    consumers = serializers.IntegerField(help_text="Workers that serve the queue.")


class LetterCountSerializer(serializers.Serializer[queues.LetterCount]):
    """Dead letters in a state."""

    state = serializers.CharField(help_text="`failed` (waits for an operator), `requeued`, `resolved` or `discarded`.")
    letters = serializers.IntegerField(help_text="How many.")


class FinishedJobSerializer(serializers.Serializer[JobLog]):
    """A finished task."""

    task_id = serializers.CharField(help_text="The message's id.")
    task = serializers.CharField(help_text="The task's name.")
    deals = serializers.IntegerField(allow_null=True, help_text="Deals in the message; null for other tasks.")
    closed = serializers.IntegerField(allow_null=True, help_text="Deals that it closed; null when it failed.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="Null when the process that ran it was lost.")
    finished_at = serializers.DateTimeField(help_text="When it ended.")
    duration_ms = serializers.FloatField(allow_null=True, help_text="How long it ran, ms; null as above.")
    error = serializers.CharField(help_text="Class and text of the error; empty when it completed.")


class QueuesSerializer(serializers.Serializer[queues.Queues]):
    """Every queue, dead letters and finished jobs."""

    queues = QueueSerializer(many=True, help_text="Every queue of ours.")
    dead_letters = LetterCountSerializer(many=True, help_text="Dead letters by state.")
    completed = FinishedJobSerializer(many=True, help_text="The last 100 completed closing jobs, newest first.")
    failed = FinishedJobSerializer(many=True, help_text="The last 50 failed jobs of any task, newest first.")


# --- closures ----------------------------------------------------------------------------------------------------


class ClosureCountSerializer(serializers.Serializer[closures.Count]):
    """Closures by reason and detector."""

    reason = serializers.ChoiceField(choices=CloseReason.choices, help_text="What closed the deals.")
    detector = serializers.CharField(help_text="Who saw that they were due: `tick`, `arm`, `sweep` or `manual`.")
    deals = serializers.IntegerField(help_text="How many.")


class LatencySerializer(serializers.Serializer[closures.Latency]):
    """Percentiles of a duration."""

    deals = serializers.IntegerField(help_text="How many closures were measured.")
    p50_ms = serializers.FloatField(allow_null=True, help_text="Median, ms; null without closures.")
    p95_ms = serializers.FloatField(allow_null=True, help_text="95 % were not slower, ms; null as above.")
    p99_ms = serializers.FloatField(allow_null=True, help_text="99 % were not slower, ms; null as above.")
    max_ms = serializers.FloatField(allow_null=True, help_text="The slowest, ms; null as above.")


class LatenciesSerializer(serializers.Serializer[Any]):
    """The ways from the tick's receipt to the commit; closures by hand do not count."""

    tick_to_fired = LatencySerializer(help_text="From the receipt of the tick until the deal fired.")
    fired_to_started = LatencySerializer(help_text="Until a worker took it.")
    started_to_committed = LatencySerializer(help_text="Until PostgreSQL committed the closure.")
    tick_to_committed = LatencySerializer(help_text="All of it.")


class RecentClosureSerializer(serializers.Serializer[Deal]):
    """A closed deal."""

    deal_id = serializers.IntegerField(source="pk", help_text="The deal.")
    user_id = serializers.IntegerField(source="account.user_id", help_text="Its user's number.")
    symbol = serializers.CharField(help_text="Its symbol.")
    reason = serializers.ChoiceField(
        choices=CloseReason.choices, source="close_reason", help_text="What closed the deal."
    )
    detector = serializers.CharField(help_text="`tick`, `arm`, `sweep` or `manual`.")
    close_price = PlainDecimal(help_text="USDT a unit.")
    profit = SignedDecimal(help_text="Gain or loss after commission, USDT.")
    trade_id = serializers.IntegerField(
        source="close_trade_id", allow_null=True, help_text="The exchange's trade that fired it, if it has a number."
    )
    tick_at = serializers.DateTimeField(
        source="close_tick_at", allow_null=True, help_text="Exchange time of the price."
    )
    received_at = serializers.DateTimeField(allow_null=True, help_text="When the price reached us; null by hand.")
    fired_at = serializers.DateTimeField(allow_null=True, help_text="When it fired; null by hand.")
    started_at = serializers.DateTimeField(help_text="When a worker took it.")
    committed_at = serializers.DateTimeField(
        source="settlement.committed_at", allow_null=True, help_text="When it was committed; null: not recorded."
    )


class FailedAttemptSerializer(serializers.Serializer[closures.FailedAttempt]):
    """A deal that could not be settled, once."""

    deal_id = serializers.IntegerField(help_text="The deal.")
    at = serializers.DateTimeField(help_text="When.")
    error = serializers.CharField(help_text="Class and text of the error.")


class ClosureTotalsSerializer(serializers.Serializer[Any]):
    """The closures of the last minutes."""

    minutes = serializers.IntegerField(help_text="How many minutes the figures reach back.")
    closed = serializers.IntegerField(help_text="Deals closed in them.")
    errors = serializers.IntegerField(  # type: ignore[assignment]  # a field of that name
        help_text="Failed attempts with single deals, and messages that failed for good."
    )
    success_rate_percent = serializers.FloatField(
        allow_null=True, help_text="closed ÷ (closed + errors), %; null without either."
    )
    latencies = LatenciesSerializer(help_text="Percentiles, ms.")


class ClosuresSerializer(ClosureTotalsSerializer):
    """The closures of the last minutes, and the latest ones."""

    counts = ClosureCountSerializer(many=True, help_text="By reason and detector; empty ones are left out.")
    recent = RecentClosureSerializer(many=True, help_text="The last 50 closures, newest first, whenever they were.")
    recent_errors = FailedAttemptSerializer(many=True, help_text="The last 50 failed attempts, newest first.")


# --- history -----------------------------------------------------------------------------------------------------


class ReasonCountSerializer(serializers.Serializer[history.ReasonCount]):
    """Closures by reason."""

    reason = serializers.ChoiceField(choices=CloseReason.choices, help_text="What closed the deals.")
    deals = serializers.IntegerField(help_text="How many.")


class QueueDepthSerializer(serializers.Serializer[history.QueueDepth]):
    """A queue in one minute."""

    name = serializers.CharField(help_text="`closures`, `sweep` or `default`.")
    depth = serializers.IntegerField(
        allow_null=True, help_text="Most messages that waited, of a look every 2 s; null: not known."
    )


class MinuteSerializer(serializers.Serializer[history.Minute]):
    """One minute."""

    at = serializers.DateTimeField(help_text="When it began.")
    closures = ReasonCountSerializer(many=True, help_text="By reason; empty ones are left out.")
    latency = LatencySerializer(help_text="From the receipt of the tick until the commit; closures by hand excluded.")
    queues = QueueDepthSerializer(many=True, help_text="Every queue of ours.")


class HistorySerializer(serializers.Serializer[history.History]):
    """The last minutes one by one."""

    minutes = MinuteSerializer(many=True, help_text="Oldest first; the last one is still running.")


# --- stats -------------------------------------------------------------------------------------------------------


class DealCountSerializer(serializers.Serializer[stats.DealCount]):
    """Open deals in a monitoring state."""

    monitoring = serializers.ChoiceField(choices=Monitoring.choices, help_text="The monitoring state.")
    deals = serializers.IntegerField(help_text="How many.")


class PriceTotalsSerializer(serializers.Serializer[stats.PriceTotals]):
    """The feed in a few figures."""

    symbols = serializers.IntegerField(help_text="Symbols that can be traded.")
    fresh = serializers.IntegerField(help_text="Those with a fresh price.")
    ticks = serializers.IntegerField(help_text="Ticks written since Redis began.")
    dropped = DroppedSerializer(many=True, help_text="Ticks that did not count, by reason.")


class LastSweepSerializer(serializers.Serializer[stats.LastSweep]):
    """What the last sweep did."""

    at = serializers.DateTimeField(help_text="When it ended.")
    duration_ms = serializers.IntegerField(help_text="How long it took, ms.")
    found = serializers.IntegerField(help_text="Deals that only the sweep saw to be due: 0 in a healthy system.")
    resent = serializers.IntegerField(help_text="Fired deals that it handed to the queue again.")
    armed = serializers.IntegerField(help_text="Deals that it armed.")
    expired = serializers.IntegerField(help_text="Deals whose monitoring it ended.")


class StatsSerializer(serializers.Serializer[stats.Stats]):
    """The whole system on one page."""

    at = serializers.DateTimeField(help_text="When this was read.")
    open_deals = DealCountSerializer(many=True, help_text="Open deals by monitoring state; empty ones are left out.")
    fired = serializers.IntegerField(help_text="Deals that have fired and are not settled.")
    queues = QueueSerializer(many=True, help_text="Every queue of ours.")
    dead_letters = LetterCountSerializer(many=True, help_text="Dead letters by state.")
    prices = PriceTotalsSerializer(help_text="The feed.")
    closures = ClosureTotalsSerializer(help_text="The last 5 minutes.")
    processes = ProcessSerializer(many=True, help_text="Every process that gave a sign of life within 15 s.")
    last_sweep = LastSweepSerializer(allow_null=True, help_text="The last sweep; null: none since Redis began.")


# --- export ------------------------------------------------------------------------------------------------------


class ExportSerializer(serializers.Serializer[Any]):
    """Everything as one file. A part that could not be read holds `error` instead."""

    exported_at = serializers.DateTimeField(help_text="When the file was begun.")
    health = HealthSerializer(help_text="As `health` answers.")
    stats = StatsSerializer(help_text="As `stats` answers.")
    queues = QueuesSerializer(help_text="As `queues` answers.")
    prices = FeedSerializer(help_text="As `prices` answers.")
    closures = ClosuresSerializer(help_text="As `closures` answers, of the last hour.")
