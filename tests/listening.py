"""Listening to the operators' stream: an ASGI server in this process, and clients that read Server-Sent Events."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from django.core.handlers.asgi import ASGIHandler
from servers import wait_until

PATH = "/api/admin/workers/monitor/stream"


class Server:
    """uvicorn with our application in a thread of this process, on the test's database."""

    def __init__(self) -> None:
        config = uvicorn.Config(
            ASGIHandler(), port=0, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=3
        )
        self.uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.uvicorn.run, name="uvicorn")
        self._thread.start()
        wait_until(lambda: self.uvicorn.started, what="uvicorn has started")
        self.port = int(self.uvicorn.servers[0].sockets[0].getsockname()[1])

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


class Listening:
    """One connection: reads until it is closed. `events` are the `data:` of what came, `ids` the ids beside them."""

    def __init__(
        self,
        port: int,
        token: str,
        *,
        last_id: str | None = None,
        path: str = PATH,
        receive_buffer: int | None = None,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[str | None] = []
        self.comments = 0
        self.ended = False
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if receive_buffer is not None:
            self._connection.sock = socket.socket()
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._connection.sock.connect(("127.0.0.1", port))
        headers = {"Authorization": f"Token {token}", "Accept": "text/event-stream"}
        self._connection.request("GET", path, headers=headers | ({} if last_id is None else {"Last-Event-ID": last_id}))
        self._sock = self._connection.sock
        self.answer = self._connection.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Listening:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def start(self) -> Listening:
        """Begin to read."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(10)
        self.answer.close()
        self._connection.close()

    def of(self, kind: str) -> list[Any]:
        """The data of the events of a type."""
        return [event["data"] for event in list(self.events) if event["type"] == kind]

    def numbered(self) -> list[int]:
        """What `publish_number` published, in the order in which it came."""
        return [data["id"] for data in self.of("deadLetter")]

    @property
    def last_id(self) -> str | None:
        """What a browser would send when it comes back."""
        return next((found for found in reversed(list(self.ids)) if found is not None), None)

    def wait_for(self, kind: str, count: int = 1, timeout_s: float = 20) -> Any:
        """The data of the last of that many events of a type."""
        wait_until(lambda: len(self.of(kind)) >= count, timeout_s, what=f"{count} × {kind}: {self.kinds}")
        return self.of(kind)[count - 1]

    @property
    def kinds(self) -> list[str]:
        """What has come, by type."""
        return [event["type"] for event in list(self.events)]

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            for block in self._blocks():
                self._take(block)
        self.ended = True

    def _blocks(self) -> Iterator[list[str]]:
        block: list[str] = []
        while line := self.answer.readline():
            text = line.decode().rstrip("\n")
            if text:
                block.append(text)
            elif block:
                yield block
                block = []

    def _take(self, block: list[str]) -> None:
        fields = dict(line.split(": ", 1) for line in block)
        assert len(fields) == len(block), block
        if "" in fields:
            self.comments += 1
        if "data" in fields:
            event = json.loads(fields["data"])
            assert set(event) == {"type", "data", "timestamp"}
            assert "event" not in fields
            self.ids.append(fields.get("id"))
            self.events.append(event)


def publish_number(number: int, *, padding: int = 0) -> None:
    """An event of the log that a test can count."""
    from workers import events

    events.publish("deadLetter", {"id": number, "padding": "x" * padding})
