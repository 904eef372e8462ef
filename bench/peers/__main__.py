"""`python -m bench.peers [PEER…]`: the same work done by others; see docs/performance.md."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import Unavailable
from bench.figures import Figure
from bench.options import RESULTS, Options, numbers
from bench.peers.installed import NAUTILUS, nautilus_python, output_of
from bench.session import in_session, say

if TYPE_CHECKING:
    from bench.report import Results
    from bench.stage import Stage

PEERS: Final = ("ours", "bullmq", "nautilus", "loop", "celery")
SYMBOLS: Final = 100
TICK_SIZES: Final = (1_000, 10_000, 20_000, 100_000)
NAUTILUS_S: Final = 400


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Which peers, and how large; ends the process with a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="The same work done by others.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all of them by default")
    add = parser.add_argument
    add("--deals", type=numbers, default=(1_000, 5_000, 20_000), metavar="N,…", help="sizes of a mass trigger")
    add("--resting", type=numbers, default=TICK_SIZES, metavar="N,…", help="open deals for the cost of a tick")
    add("--seconds", type=int, default=10, help="how long the old design is watched in its steady state")
    add("--workers", type=int, default=4, help="processes of our closing worker")
    add("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the results go (bench/results)")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.peers if name not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    given.peers = [name for name in PEERS if name in (given.peers or PEERS)]
    return given


def main() -> int:
    """Run the peers. One that cannot be had is named and left out, never guessed."""
    given = read_arguments()
    options = Options(
        parts=(),
        deals=given.deals,
        open=max(given.resting),
        symbols=SYMBOLS,
        workers=given.workers,
        results=given.results,
    )
    return in_session(options, "peers", lambda stage, results: _run(given, stage, results))


def _run(given: argparse.Namespace, stage: Stage, results: Results) -> int:
    missing: list[str] = []
    answers: dict[str, Any] = {}
    try:
        for name in given.peers:
            before = len(stage.figures)
            say(f"--- {name}")
            try:
                answers[name] = RUN[name](stage, given)
            except Unavailable as why:
                missing.append(f"{name} was left out: {why}")
                say(missing[-1])
            results.add(stage.figures[before:])
        compared = ratios(answers)
        results.add(compared)
        stage.figures += compared
    finally:
        print("\n" + "\n".join([results.finish(stage.figures), *missing]))
    return 0


def _ours(stage: Stage, given: argparse.Namespace) -> dict[str, Any]:
    """Our mass triggers and ticks at the peers' sizes."""
    from bench.parts.ingest import flood
    from bench.parts.trigger import start, trigger

    world = stage.world
    mass, ticks = {}, {}
    for deals in given.deals:
        world.reset()
        with stage.scene():
            world.add_close(world.symbols[0], deals)
            mass[deals] = trigger(stage, start(stage, given.workers), world.symbols[0], deals, f"ours {deals}").per_s
        stage.figures.append(Figure("ours", f"mass of {deals:,}", mass[deals], "closures/s"))
    world.reset()
    for resting in sorted(given.resting):
        world.grow_to(resting)
        with stage.scene():
            prices = stage.programs.start_prices(world.symbols)
            flood(stage, [prices], 2_000, "warm-up")
            ticks[resting] = 1e6 / flood(stage, [prices], 50_000, f"ours ticks {resting}")[0]
        stage.figures.append(Figure("ours", f"a tick at {resting:,}", ticks[resting], "µs"))
    return {"mass": mass, "ticks": ticks}


def _bullmq(stage: Stage, given: argparse.Namespace) -> dict[str, Any]:
    from bench.peers import old_design

    measured = old_design.run(stage, given.deals, given.seconds)
    return {"mass": {at: figures.closures_per_s for at, figures in measured.items()}}


def _nautilus(stage: Stage, given: argparse.Namespace) -> dict[str, Any]:
    python, ticks = nautilus_python(), {}
    for orders in [size for size in (1_000, 20_000) if size <= max(given.resting)]:
        stage.say(f"nautilus: {orders:,} resting stop orders")
        number = str(max(50, 1_000_000 // orders))
        answer = json.loads(output_of([python, "stops.py", str(orders), number], NAUTILUS, NAUTILUS_S))
        ticks[orders] = answer["tick_us"]
        note = f"nautilus_trader {answer['version']}; without orders {answer['empty_us']:.1f} µs"
        stage.figures.append(Figure("nautilus", f"a tick at {orders:,}", ticks[orders], "µs", note=note))
    return {"ticks": ticks}


def _loop(stage: Stage, given: argparse.Namespace) -> dict[str, Any]:
    from bench.peers.plain_loop import tick_us

    ticks = {}
    for orders in [size for size in (10_000, 100_000) if size <= max(given.resting)]:
        ticks[orders] = tick_us(orders, stage.world.symbols, ticks=200)
        stage.figures.append(Figure("loop", f"a tick at {orders:,}", ticks[orders], "µs"))
    return {"ticks": ticks}


def _celery(stage: Stage, given: argparse.Namespace) -> dict[str, Any]:
    from bench.peers import task_per_deal

    return {"batches": task_per_deal.run(stage, given.deals)}


RUN: Final = {"ours": _ours, "bullmq": _bullmq, "nautilus": _nautilus, "loop": _loop, "celery": _celery}


def ratios(answers: dict[str, Any]) -> list[Figure]:
    """Ours against each peer, where both were measured at the same size."""
    found = []
    ours = answers.get("ours", {"mass": {}, "ticks": {}})
    for (deals, concurrency), rate in answers.get("bullmq", {}).get("mass", {}).items():
        if deals in ours["mass"]:
            what = f"mass of {deals:,}: ours / bullmq at concurrency {concurrency}"
            found.append(Figure("ratio", what, ours["mass"][deals] / rate, "×"))
    for peer in ("nautilus", "loop"):
        for size, cost in answers.get(peer, {}).get("ticks", {}).items():
            if size in ours["ticks"]:
                what = f"a tick at {size:,}: {peer} / ours (ours stores, locks out and persists too)"
                found.append(Figure("ratio", what, cost / ours["ticks"][size], "×"))
    for deals, rates in answers.get("celery", {}).get("batches", {}).items():
        batch = max(rates)
        what = f"{deals:,} closures: batches of {batch} / one task per deal"
        found.append(Figure("ratio", what, rates[batch] / rates[1], "×"))
    return found


if __name__ == "__main__":
    sys.exit(main())
