"""How several pytest processes share a run (`make test`): files are handed out whole, each process has its own servers.

A test marked `alone` measures times or loads the machine: it waits until no other process runs a test, and then others
wait for it. Files with nothing but such tests come last.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_SYSTEM: Final = ("tests/faults/", "tests/browser/")
"""All tests of such a folder share a running system, so one process runs them all."""
END_WITHIN_S: Final = 60
"""Then a process is killed, and what it has started stays. By itself xdist waits for 10 s: less than a system's end."""


def hands_out(config: pytest.Config) -> bool:
    """Whether this process starts others, which run the tests."""
    return config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")


class HandingOut:
    """The process that hands out: it runs no test and has no server. `left_out` is what the others left out."""

    def __init__(self, config: pytest.Config, left_out: list[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cryptocraze-turns-"))
        self._left_out = left_out
        config.option.loadscopereorder = False  # the order of the collection is meant
        config.add_cleanup(lambda: shutil.rmtree(self._folder))

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process where the turns are taken; after Ctrl-C it gets the time to end what its test has started."""
        node.workerinput["turns"] = str(self._folder)
        node.nodemanager.EXIT_TIMEOUT = END_WITHIN_S

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        """Files are handed out whole."""
        return _ByFile(config, log)

    def pytest_testnodedown(self, node: Any) -> None:
        """Hear what a process left out; all leave out the same."""
        for line in getattr(node, "workeroutput", {}).get("left_out", []):
            if line not in self._left_out:
                self._left_out.append(line)


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in ONE_SYSTEM if nodeid.startswith(folder)), nodeid.split("::", 1)[0])


class TakingTurns:
    """One of the processes that run tests: ordinary ones beside those of others, those marked `alone` by themselves."""

    def __init__(self, config: pytest.Config, left_out: list[str]) -> None:
        folder = Path(config.workerinput["turns"])  # type: ignore[attr-defined]
        self._config = config
        self._left_out = left_out
        self._queue = (folder / "queue").open("w")
        self._stage = (folder / "stage").open("w")
        config.add_cleanup(self._queue.close)
        config.add_cleanup(self._stage.close)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Files of which all tests are marked `alone` come last: when nobody has anything else to do."""
        shared = {item.path for item in items if not _is_alone(item)}
        items.sort(key=lambda item: item.path not in shared)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Around everything else, time limits too: waiting is not the test's time."""
        with self._turn(fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH):
            return (yield)

    def pytest_sessionfinish(self) -> None:
        """Tell what was left out."""
        self._config.workeroutput["left_out"] = self._left_out  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        with _locked(self._queue, fcntl.LOCK_EX):  # who waits for the stage to be empty is not overtaken
            fcntl.flock(self._stage, kind)
        try:
            yield
        finally:
            fcntl.flock(self._stage, fcntl.LOCK_UN)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@contextlib.contextmanager
def _locked(file: TextIO, kind: int) -> Iterator[None]:
    fcntl.flock(file, kind)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
