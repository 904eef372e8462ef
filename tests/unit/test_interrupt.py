"""A signal that asks a command to end is never lost, wherever it strikes."""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from workers.interrupt import Interrupted, interruptible, undisturbed


class Closing:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def _end_while_ending() -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.raise_signal(signal.SIGTERM)


def _end_in_a_finalizer() -> None:
    closing = Closing()
    del closing
    time.sleep(5)


def _end_in_the_callback_of_a_weak_reference() -> None:
    watched = Interrupted(signal.SIGINT)
    reference = weakref.ref(watched, lambda _gone: signal.raise_signal(signal.SIGINT))
    del watched
    time.sleep(5)
    assert reference() is None


@pytest.fixture(autouse=True)
def _handlers():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("work", "number"),
    [
        (_end_while_ending, signal.SIGINT),
        (_end_in_a_finalizer, signal.SIGTERM),
        (_end_in_the_callback_of_a_weak_reference, signal.SIGINT),
    ],
)
def test_the_first_signal_ends_what_runs_wherever_it_strikes(work: Callable[[], None], number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as raised, interruptible():
        work()
    assert raised.value.number == number


def test_without_a_signal_everything_is_as_before() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    hook = sys.unraisablehook
    with interruptible():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == handlers
    assert sys.unraisablehook is hook


def test_what_takes_things_down_is_not_left_half_done() -> None:
    done = []

    def work_and_take_down() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("taken down")
        done.append("more work")

    with pytest.raises(Interrupted) as raised, interruptible():
        work_and_take_down()
    assert (done, raised.value.number) == (["taken down"], signal.SIGTERM)


def test_whoever_handled_a_signal_before_handles_it_afterwards() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    with undisturbed():
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM]


def test_another_thread_is_not_signalled_anyway() -> None:
    done: list[bool] = []

    def take_down() -> None:
        with undisturbed():
            done.append(True)

    thread = threading.Thread(target=take_down)
    thread.start()
    thread.join()
    assert done == [True]
