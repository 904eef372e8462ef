"""One run of the bench, from its servers' start to their end: the stage is set, the work done, everything stopped."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import django

from bench import proc
from bench.errors import NoRoom, Trouble
from bench.options import Options
from bench.servers import Servers, durable_servers
from cryptocraze.env import SettingError
from workers.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    from bench.report import Results
    from bench.stage import Stage

_started = time.monotonic()


def say(line: str) -> None:
    """One line of progress."""
    print(f"bench {time.monotonic() - _started:6.1f} s  {line}", flush=True)


def in_session(options: Options, kind: str, work: Callable[[Stage, Results], int]) -> int:
    """Do the work on servers of its own; returns its exit code, or that of what came between.

    Whatever happens, Ctrl-C included, everything that was started is stopped and the data is removed.
    """
    machine = proc.machine()  # before anything of ours adds to its load
    try:
        with interruptible(), durable_servers(options) as servers, contextlib.ExitStack() as stack:
            say("servers run; making the tables")
            django.setup()  # from here on our modules with models can be imported
            _log_to(stack.enter_context((servers.folder / "bench.log").open("a")))
            from bench.report import Results, facts

            stage = _stage(options, servers, machine["cores"])
            stack.callback(stage.programs.stop)
            results = Results(options.results, facts(options, servers.folder, machine), kind)
            try:
                return work(stage, results)
            except Trouble as error:
                say(f"{error}; the logs are in {results.keep_logs(servers.folder)}")
                return 2
    except Interrupted as signal:
        say(f"{signal}: everything is stopped")
        return 128 + signal.number
    except (NoRoom, SettingError) as error:
        say(str(error))
        return 2


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
    profiles = options.results / f"profile-{time.strftime('%Y%m%d-%H%M%S')}" if options.profile else None
    return Stage(
        options=options,
        servers=servers,
        programs=Programs(servers.folder),
        world=World(servers, options, say),
        profiler=Profiler(profiles),
        say=say,
        cores=cores,
    )
