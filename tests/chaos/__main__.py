"""`make chaos`: a long run of faults at random moments, without waiting in between, checked in rounds."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path
from typing import Final

from servers import PROJECT

from chaos import plan, table
from chaos.oracle import Findings
from chaos.world import Loss, World, running_world

DONE, LOST = 0, 1
SAMPLES: Final = 3
CATCH_UP: Final = 10
LIVES: Final = """
SELECT id, (extract(epoch FROM opened_at) * 1000)::bigint, (extract(epoch FROM closed_at) * 1000)::bigint FROM deals
"""
SPREAD: Final = (0.5, 1.5)


def main() -> int:
    """Run; 0 when nothing was lost, duplicated or wrong."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(LOST))  # in order: the system is stopped
    options = _options()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    _say(f"seed {seed}: {options.kills} kills and {options.restarts} restarts, one every {options.every} s")
    began = time.monotonic()
    with running_world(seed) as world:
        _say(f"the system runs after {time.monotonic() - began:.0f} s")
        code = DONE
        try:
            findings = _rounds(world, options, began)
        except (Loss, AssertionError) as loss:
            code, findings = LOST, _tell(world, loss, seed)
        _report(world, findings, seed, time.monotonic() - began, options.out)
    return code


def _tell(world: World, loss: Loss | AssertionError, seed: int) -> Findings:
    """Say everything that is known of what is not as it must be; that the run ended early is a finding, too."""
    _say(f"\nNOT AS IT MUST BE, with seed {seed}:\n{loss}")
    findings = _found_by(loss)
    if findings is None:
        findings = _in_the_end(world)
        findings.other.append(f"the run ended early: {loss}")
    log = Path(f"chaos-{seed}.log")
    log.write_text(world.system.launcher.output)
    _say(f"the system's log is in {log}")
    return findings


def _found_by(loss: Loss | AssertionError) -> Findings | None:
    return loss.findings if isinstance(loss, Loss) else None


def _in_the_end(world: World) -> Findings:
    """What is still wrong when everything has had its time."""
    try:
        return world.check()
    except (Loss, AssertionError) as loss:
        _say(str(loss))
        return _found_by(loss) or world.look()


def _rounds(world: World, options: argparse.Namespace, began: float) -> Findings:
    """All rounds of the plan, or as many as the minutes allow."""
    planned = plan.rounds(kills=options.kills, restarts=options.restarts, rng=world.rng)
    findings = world.check()
    for number, faults in enumerate(planned):
        for fault in plan.samples(number, SAMPLES):
            recovery_s = world.survive(fault)
            _progress(world, began, f"{fault.name}: recovered after {recovery_s:.1f} s")
        world.feed.walk()
        world.traders.work()
        due = time.monotonic()
        for fault in faults:
            # What was late, because it waited for the process to kill, is caught up with.
            due = max(due, time.monotonic() - CATCH_UP * options.every) + options.every * world.rng.uniform(*SPREAD)
            while (left := due - time.monotonic()) > 0:
                world.mend_due()
                time.sleep(min(left, 0.2))
            world.break_now(fault)
        findings = world.check()
        _progress(
            world,
            began,
            f"round {number + 1} of {len(planned)}: {findings.deals} deals, {findings.closed} closed, all right",
        )
        if time.monotonic() - began > options.minutes * 60:
            _say("the time is over")
            break
    world.drain()
    return findings


def _report(world: World, findings: Findings, seed: int, took_s: float, out: str) -> None:
    deals = [table.Life(*row) for row in world.system.sql(LIVES)]
    text = table.markdown(table.rows(world.events, deals, findings))
    about = table.description(world.system, world.events, findings, seed=seed, took_s=took_s)
    _say(f"\n{about}\n\n{text}")
    if out:
        table.write(PROJECT / out, f"{about}\n\n{text}")
        _say(f"\nwritten to {out}")


def _progress(world: World, began: float, what: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    _say(f"{minutes:3}:{seconds:02}  {len(world.events):5} faults  {what}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 it talks to a person


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="of the faults, the prices and the deals; drawn by chance if not given"
    )
    parser.add_argument("--kills", type=int, default=1000, help="of processes, besides those that are measured")
    parser.add_argument("--restarts", type=int, default=100, help="of servers, besides those that are measured")
    parser.add_argument("--every", type=float, default=2.6, help="seconds between two faults, on average")
    parser.add_argument("--minutes", type=float, default=70, help="begin no further round after so long")
    parser.add_argument("--out", default="docs/faults.md", help="the page that gets the table; empty: none")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
