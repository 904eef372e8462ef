"""`python -m bench [PART…]`: the benchmark; see docs/performance.md. Exit code 2: it did not come to its end."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

import django

from bench import proc
from bench.options import Options, read_options
from bench.servers import NoRoom, Servers, durable_servers
from cryptocraze.env import SettingError
from workers.replay.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    from bench.report import Results
    from bench.stage import Stage

_started = time.monotonic()


def say(line: str) -> None:
    """One line of progress."""
    print(f"bench {time.monotonic() - _started:6.1f} s  {line}", flush=True)


def main() -> int:
    """Run what the command line asks for; everything that was started is stopped, whatever happens."""
    options = read_options()
    machine = proc.machine()  # before anything of ours adds to its load
    try:
        with interruptible(), durable_servers(options) as servers:
            return _run(options, servers, machine)
    except Interrupted as signal:
        say(f"{signal}: everything is stopped")
        return 128 + signal.number
    except (NoRoom, SettingError) as error:
        say(str(error))
        return 2


def _run(options: Options, servers: Servers, machine: dict[str, Any]) -> int:
    say("servers run; making the tables")
    django.setup()
    from bench.programs import Trouble
    from bench.report import Results, facts

    with contextlib.ExitStack() as stack:
        _log_to(stack.enter_context((servers.folder / "bench.log").open("a")))
        stage = _stage(options, servers, machine["cores"])
        stack.callback(stage.programs.stop)
        results = Results(options.results, facts(options, servers.folder, machine))
        try:
            for name in options.parts:
                _run_part(name, stage, results)
        except Trouble as error:
            say(f"{name}: {error}")
            return 2
        finally:
            if stage.figures:
                print(f"\n{results.finish(stage.figures)}")
                _draw(stage, results)
    say(f"results: {results.base}.txt, .jsonl")
    return int(options.strict and any(figure.verdict == "MISSED" for figure in stage.figures))


def _log_to(file: TextIO) -> None:
    """What the system's code logs in this process goes to a file, as that of the others does."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(file)


def _stage(options: Options, servers: Servers, cores: int) -> Stage:
    from django.core.management import call_command
    from django.db import connections

    from bench.profile import Profiler
    from bench.programs import Programs
    from bench.stage import Stage
    from bench.world import World

    call_command("migrate", verbosity=0)
    connections.close_all()
    servers.keep_pristine()
    return Stage(
        options=options,
        servers=servers,
        programs=Programs(servers.folder),
        world=World(servers, options, say),
        profiler=Profiler(options.results / f"profile-{time.strftime('%Y%m%d-%H%M%S')}" if options.profile else None),
        say=say,
        cores=cores,
    )


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
    sys.exit(main())
