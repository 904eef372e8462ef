"""`python -m bench [PART…]`: the benchmark; see docs/performance.md. Exit code 2: it did not come to its end."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from bench.options import read_options
from bench.session import in_session, say

if TYPE_CHECKING:
    from bench.report import Results
    from bench.stage import Stage


def run(stage: Stage, results: Results) -> int:
    """The parts one after the other; what was measured is shown even when one of them fails."""
    try:
        for name in stage.options.parts:
            _run_part(name, stage, results)
    finally:
        if stage.figures:
            print(f"\n{results.finish(stage.figures)}")
            _draw(stage, results)
            say(f"results: {results.base}.txt, .jsonl")
    missed = any(figure.verdict == "MISSED" for figure in stage.figures)
    return int(stage.options.strict and missed)


def _run_part(name: str, stage: Stage, results: Results) -> None:
    before = len(stage.figures)
    say(f"--- {name}")
    importlib.import_module(f"bench.parts.{name}").run(stage)
    results.add(stage.figures[before:])


def _draw(stage: Stage, results: Results) -> None:
    from bench.plot import draw

    try:
        draw(stage.figures, results.base.with_suffix(".png"), f"CryptoCraze TP/SL, {results.base.name}")
    except ModuleNotFoundError:
        say("no plot: matplotlib is not installed (`make bench` installs it)")


if __name__ == "__main__":
    sys.exit(in_session(read_options(), "bench", run))
