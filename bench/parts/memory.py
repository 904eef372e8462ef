"""memory: what an armed deal takes in Redis, and whether the processes grow with mass triggers."""

from __future__ import annotations

from typing import Any, Final

from bench import proc
from bench.figures import Figure
from bench.parts.trigger import start, trigger
from bench.programs import wait_until
from bench.stage import Stage

FREE_S: Final = 30.0
FLAT: Final = 1.1
"""Memory counts as flat when a second trigger of the same size leaves at most a tenth more than the first."""


def run(stage: Stage) -> None:
    """Redis bytes a deal by its own account; resident memory after a first and a second trigger of the same size."""
    world = stage.world
    for deals in stage.options.sizes(100_000)[-1:]:
        world.reset()
        with stage.scene():
            before = used_bytes(stage)
            world.add_close(world.symbols[0], deals)
            each = (used_bytes(stage) - before) / deals
            world.add_close(world.symbols[1], deals)
            prices = start(stage, stage.options.workers)
            trigger(stage, prices, world.symbols[0], deals, f"memory {deals} first")
            first = _resident(stage)
            trigger(stage, prices, world.symbols[1], deals, f"memory {deals} second")
            second = _resident(stage)
        stage.figures.append(Figure("memory", f"Redis, each of {deals:,} armed", each, "B", 300, 200))
        growth = sum(second.values()) / sum(first.values())
        stage.figures.append(Figure("memory", "RSS after the second trigger / the first", growth, "×", FLAT))
        stage.figures += [
            Figure(
                "memory",
                f"RSS of {name}",
                second[name] / 2**20,
                "MiB",
                note=f"{first[name] / 2**20:.0f} MiB after the first",
            )
            for name in sorted(second, key=lambda name: -second[name])
        ]


def used_bytes(stage: Stage) -> int:
    """What Valkey says it uses, when it has given back everything that was deleted. Raises Trouble."""
    redis: Any = stage.world.redis
    wait_until(lambda: not redis.info("memory")["lazyfree_pending_objects"], FREE_S, "deleted memory is given back")
    return int(redis.info("memory")["used_memory"])


def _resident(stage: Stage) -> dict[str, int]:
    ours = {name: size for name, size in stage.programs.rss_bytes().items() if size}
    return ours | {"valkey": proc.rss_bytes(stage.servers.pids["valkey"])}
