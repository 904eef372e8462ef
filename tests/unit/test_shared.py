"""Work that is shared by all who ask at the same moment: done once for them, and never again from memory."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from servers import wait_until

from monitoring.shared import Shared


class Work:
    """Counts how often it is done, and is not done before it may."""

    def __init__(self) -> None:
        self.begun = 0
        self.goes_wrong = False
        self.may_end = threading.Event()

    def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        assert self.may_end.wait(10)
        if self.goes_wrong:
            raise ValueError("unlucky")
        return number


def waiting() -> int:
    """How many threads wait for what another one does."""
    callers = [frame.f_back for frame in sys._current_frames().values()]
    return sum(
        caller is not None
        and caller.f_code is Future.result.__code__
        and caller.f_back is not None
        and caller.f_back.f_code is Shared.ask.__code__
        for caller in callers
    )


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.mark.parametrize("goes_wrong", [False, True])
def test_all_who_ask_meanwhile_share_what_comes_of_it_and_the_next_one_does_not(work: Work, goes_wrong: bool) -> None:
    shared = Shared(work, young_s=30)
    with ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(shared.ask) for _ in range(20)]
        wait_until(lambda: waiting() == 19, what="one works and the others wait")
        work.goes_wrong = goes_wrong
        work.may_end.set()
        if goes_wrong:
            assert {str(one.exception(10)) for one in asked} == {"unlucky"}
        else:
            assert {one.result(10) for one in asked} == {1}
    work.goes_wrong = False
    assert shared.ask() == 2


def test_what_began_too_long_ago_is_not_shared(work: Work) -> None:
    shared = Shared(work, young_s=0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.ask)
        wait_until(lambda: work.begun == 1)
        second = threads.submit(shared.ask)
        wait_until(lambda: work.begun == 2)
        work.may_end.set()
        assert (first.result(10), second.result(10)) == (1, 2)
