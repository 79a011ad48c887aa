"""HTTP/1.1 on one socket, for answers that come in pieces: one time stamp a receive, the body's bytes kept as they came.

What a connection knows of a request is its `Exchange`. An answer ends with its last chunk, its content length, or, where a server
says neither, with the connection. Interim answers (100 Continue) are passed over.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import httptools

MAX_HEAD_BYTES = 256 << 10
MAX_ANSWER_BYTES = 512 << 20


class Exchange:
    """One attempt at a request, and what came back. Times are ns of the monotonic clock, 0 where there is none."""

    __slots__ = (
        "at", "attempt", "connection", "content_type", "data", "error_type", "first_ns", "index", "intended_us", "last_ns",
        "outcome", "received", "resent", "retry_after", "sent_ns", "started_ns", "status", "wire",
    )  # fmt: skip

    def __init__(self, index: int, attempt: int, intended_us: int, wire: bytes) -> None:
        self.index, self.attempt, self.intended_us, self.wire = index, attempt, intended_us, wire
        self.connection: Connection | None = None
        self.started_ns = monotonic_ns()  # when it was taken up: what deadlines count from; 0 while it waits
        self.resent = False
        self.outcome = ""  # set with its end: `whole`, or what went wrong
        self.error_type = ""
        self.clear()

    def clear(self) -> None:
        """Nothing sent, nothing received: the state before a send."""
        self.sent_ns = self.first_ns = self.last_ns = 0
        self.received = self.status = 0
        self.content_type = self.retry_after = ""
        self.data: list[bytes] = []  # pieces of the body
        self.at = array("q")  # when each was received


class Connection(asyncio.Protocol):
    """One socket. `done(connection, exchange)` is called once for each exchange begun on it, `lost(connection)` when it is gone."""

    __slots__ = (
        "_close_delimited", "_done", "_head", "_keep", "_lost", "_now", "_over", "_parser", "closed", "exchange", "transport", "used",
    )  # fmt: skip

    def __init__(
        self, done: Callable[[Connection, Exchange], None], lost: Callable[[Connection], None]
    ) -> None:
        self._done, self._lost = done, lost
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.closed = False
        self.used = 0  # requests that it carried
        self._parser: Any = None
        self._now = 0
        self._head = 0
        self._close_delimited = False
        self._over = self._keep = False  # the answer has ended, and the connection can carry another

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready for requests."""
        self.transport = transport

    def send(self, exchange: Exchange) -> None:
        """Write a request; the connection must be idle."""
        self.exchange = exchange
        exchange.connection = self
        self.used += 1
        self._head = 0
        self._close_delimited = True
        self._over = False
        self._parser = httptools.HttpResponseParser(self)
        exchange.sent_ns = monotonic_ns()
        self.transport.write(exchange.wire)

    def data_received(self, data: bytes) -> None:
        """One receive."""
        exchange = self.exchange
        if exchange is None:  # an answer that nobody asked for
            self.close()
            return
        self._now = exchange.last_ns = monotonic_ns()
        if not exchange.received:
            exchange.first_ns = self._now
        exchange.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._over:  # behind the end of the answer: nothing of it
                self._end("whole", "")
            else:
                self._end("malformed", "http")
            return
        if self._over:
            self._end("whole", "", self._keep)
        elif self._head >= 0:  # still in the head
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES:
                self._end("malformed", "head_too_large")
        elif exchange.received > MAX_ANSWER_BYTES:
            self._end("malformed", "answer_too_large")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._over:  # an answer that nobody asked for
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        exchange = self.exchange
        if exchange is None or self._over:
            return
        name = name.lower()
        if name == b"content-type":
            exchange.content_type = value.decode("latin-1")
        elif name == b"retry-after":
            exchange.retry_after = value.decode("latin-1")
        elif name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._close_delimited = False

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status >= 200 and self.exchange is not None and not self._over:
            self.exchange.status = status
            self._head = -1

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each piece of the body."""
        exchange = self.exchange
        if exchange is not None and not self._over:
            exchange.data.append(body)
            exchange.at.append(self._now)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.exchange is None or self._over or self.exchange.status < 200:
            return  # of an interim answer: the real one follows
        self._over = True
        self._keep = self._parser.should_keep_alive() and not self.transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.closed = True
        exchange = self.exchange
        if exchange is not None and exc is None and exchange.status and self._close_delimited:
            self._end("whole", "")
        else:
            self._end("reset", "closed" if exc is None else type(exc).__name__)
        self._lost(self)

    def cut(self, outcome: str, error_type: str) -> None:
        """Give up on the exchange under way."""
        self._end(outcome, error_type)

    def _end(self, outcome: str, error_type: str, keep: bool = False) -> None:
        """The exchange under way, if any, is over."""
        exchange = self.exchange
        if exchange is None:
            return
        exchange.outcome, exchange.error_type = outcome, error_type
        exchange.connection = self.exchange = self._parser = None
        if not keep:
            self.close()
        self._done(self, exchange)

    def close(self) -> None:
        """Close the socket at once: what it still had to write is thrown away."""
        if not self.closed:
            self.closed = True
            self.transport.abort()
