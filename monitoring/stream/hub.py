"""Where connections meet the session of their event loop: the first one begins it, the last one ends it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Final

import structlog
from asgiref.sync import SyncToAsync
from redis.exceptions import RedisError

from monitoring.stream.listener import Listener
from monitoring.stream.session import Session
from monitoring.stream.wire import HELLO, Place

log = structlog.get_logger(__name__)

LONGEST_S: Final = 3600.0
"""Then the client comes back and says again who it is: who loses his rights loses the stream."""

ENDING: Final = (signal.SIGTERM, signal.SIGINT)

_sessions: dict[asyncio.AbstractEventLoop, Session] = {}
_closing: set[asyncio.Task[None]] = set()


async def stream(cursor: str | None) -> AsyncIterator[bytes]:
    """The events for one connection, from that cursor on, until it is cancelled, too slow, an hour old or ended."""
    _let_the_thread_go()
    loop = asyncio.get_running_loop()
    session = _session(loop)
    listener = Listener(cursor)
    session.join(listener)
    until = loop.time() + LONGEST_S
    try:
        yield HELLO
        while (parts := await listener.take()) and loop.time() < until:
            for part in parts:
                if part.begins is not None:
                    async for text in _caught_up(session, listener, part.begins):
                        yield text
                elif listener.wants(part):
                    yield part.text
    finally:
        _leave(loop, session, listener)


async def _caught_up(session: Session, listener: Listener, place: Place) -> AsyncIterator[bytes]:
    try:
        async for text in session.catch_up(listener, place):
            yield text
    except RedisError as error:
        log.warning("stream.not_caught_up", error=str(error))
        session.postpone(listener)


def listeners() -> int:
    """How many connections of this process listen."""
    return sum(len(session.listeners) for session in list(_sessions.values()))


def end_all() -> None:
    """Let every connection of this process end. Called on its event loop."""
    for session in _sessions.values():
        for listener in session.listeners:
            listener.end()


def _let_the_thread_go() -> None:
    """End the thread in which Django ran this request's view: it would stand idle, with its memory, until the end.

    asgiref keeps one for each request and has no call to end it; it makes a new one when it needs one again.
    """
    request = SyncToAsync.thread_sensitive_context.get(None)
    thread = None if request is None else SyncToAsync.context_to_thread_executor.pop(request, None)
    if thread is not None:
        thread.shutdown(wait=False)


def _session(loop: asyncio.AbstractEventLoop) -> Session:
    if loop not in _sessions:
        _end_with_the_server(loop)
        _sessions[loop] = Session()
    return _sessions[loop]


def _leave(loop: asyncio.AbstractEventLoop, session: Session, listener: Listener) -> None:
    """Without waiting: a connection that is being cancelled must not be held up."""
    session.leave(listener)
    if not session.listeners and _sessions.get(loop) is session:
        del _sessions[loop]
        task = loop.create_task(session.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


def _end_with_the_server(loop: asyncio.AbstractEventLoop) -> None:
    """Hear the signals that end the server before it does.

    ASGI tells an application of the end only when all its answers have ended: a stream would hold the server up for
    its whole patience.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        server = signal.getsignal(number)
        if callable(server) and server is not signal.default_int_handler and not isinstance(server, _StreamsFirst):
            signal.signal(number, _StreamsFirst(loop, server))


class _StreamsFirst:
    """A signal handler: ends the streams, then does what the server does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Callable[[int, FrameType | None], object]) -> None:
        self._loop = loop
        self._server = server

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(end_all)
        self._server(number, frame)
