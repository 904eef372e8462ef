"""The command line of `python -m bench`: which parts, and how large."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PARTS: Final = ("mass", "memory", "scale", "growth", "arm", "idle", "ingest", "detect", "sweep")
"""In this order: the first ones begin with an empty database each, from growth on they share the deals."""

TRIGGERS: Final = frozenset({"mass", "memory", "scale"})
"""Those in which one tick closes all deals of a symbol, on databases of their own."""

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which parts run, and how large; the defaults are those of the documented table."""

    parts: tuple[str, ...] = PARTS
    deals: tuple[int, ...] = ()
    open: int = 1_000_000
    symbols: int = 100
    rate: int = 1_000
    watched: int = 20_000
    crossing: float = 0.01
    rounds: int = 5
    ticks: int = 500_000
    seconds: int = 60
    sweeps: int = 5
    find: int = 1_000
    calls: int = 1_000
    workers: int = 4
    per_account: int = 10
    log_level: str = "INFO"
    profile: bool = False
    strict: bool = False
    results: Path = RESULTS

    def sizes(self, *defaults: int) -> tuple[int, ...]:
        """How many deals a mass trigger closes: what was asked for, else the defaults."""
        return self.deals or defaults

    @property
    def symbol_names(self) -> list[str]:
        """The made-up symbols."""
        return [f"B{number:03}USDT" for number in range(self.symbols)]


def read_options(arguments: list[str] | None = None) -> Options:
    """Read the command line (`sys.argv` by default); ends the process with a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the whole system; see docs/performance.md."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them by default")
    add = parser.add_argument
    add(
        "--deals",
        type=numbers,
        metavar="N,…",
        help="deals of a mass trigger (mass 5000,100000; memory 100000; scale 50000)",
    )
    add("--open", type=_number, metavar="N", help="open deals in growth, arm, idle, ingest, detect, sweep (1000000)")
    add("--symbols", type=_number, metavar="N", help="symbols (100)")
    add("--rate", type=_number, metavar="N", help="ticks a second, all symbols together (1000)")
    add("--watched", type=_number, metavar="N", help="open deals close to the price (20000)")
    add("--crossing", type=_share, metavar="X", help="share of the watched that crosses in a round of detect (0.01)")
    add("--rounds", type=_number, metavar="N", help="rounds of detect, about 6 s each (5)")
    add("--ticks", type=_number, metavar="N", help="ticks of one flood in ingest (500000); growth takes a fifth")
    add("--seconds", type=_number, metavar="N", help="how long idle is watched (60)")
    add("--sweeps", type=_number, metavar="N", help="sweeps measured of each kind (5)")
    add("--find", type=_number, metavar="N", help="deals that a sweep has to find (1000)")
    add("--calls", type=_number, metavar="N", help="calls of open_deal in arm (1000)")
    add("--workers", type=_number, metavar="N", help="processes of the closing worker (4)")
    add("--per-account", type=_number, metavar="N", help="open deals of one account (10)")
    add("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"), help="of the system's processes (INFO)")
    add(
        "--profile",
        action="store_true",
        default=None,
        help="py-spy, pg_stat_statements and SLOWLOG beside each part; slower",
    )
    add("--strict", action="store_true", default=None, help="exit code 1 when a must is missed")
    add("--results", type=Path, metavar="FOLDER", help="where the results go (bench/results)")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    names = given.pop("parts") or PARTS
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options = Options(parts=tuple(name for name in PARTS if name in names), **given)
    if options.symbols == 1 and TRIGGERS.intersection(names):
        parser.error("--symbols must be more than 1: the last one is for warming up")
    if options.open <= options.watched and set(names) - TRIGGERS:
        parser.error("--open must be more than --watched")
    return options


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers above 0, separated by commas."""
    return tuple(_number(word) for word in text.split(","))


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most 1")
    return share
