"""An engine that does nothing but answer at planned times: what a client adds shows against it.

`python -m traceprof.replay.nullengine TTFT_US GAP_US` listens on loopback, prints its port, and ends when its stdin does. Every POST
is answered by `max_tokens` events of a stream, the first TTFT_US after the request has arrived, the others GAP_US apart. The
content of the first is "A<arrival> S<sent> ", of the others "S<sent> ": ns of the monotonic clock, which is one for all processes
of a machine. `"stream":false` gets all of it at the time of the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic_ns
from typing import Any

import httptools

from traceprof.engines.base import Endpoint, Engine
from traceprof.errors import TraceprofError
from traceprof.replay.alarm import alarm, short_slices

ENGINE = Engine(
    name="null",
    label="null engine",
    checked="part of traceprof",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "ids": Endpoint("/v1/completions", "completions"),
    },
    ready="/",
)
DEFAULT_TOKENS = 128  # of a request that does not say
BURST = 64  # events sent before requests are looked at again
US = 1000  # ns


@contextlib.contextmanager
def null_engine(ttft_us: int, gap_us: int) -> Iterator[str]:
    """One in its own process for as long as the block runs; its URL."""
    command = [sys.executable, "-m", "traceprof.replay.nullengine", str(ttft_us), str(gap_us)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise TraceprofError("the built-in engine that calibrates the client does not start")
            yield f"http://127.0.0.1:{int(port)}"
        finally:
            process.kill()


# ---- the process


class Engines(asyncio.Protocol):
    """A connection: one request at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parser: Any = None
        self._body = bytearray()
        self._chat = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.abort()

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._chat = url.endswith(b"/chat/completions")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        arrived = monotonic_ns()
        told = re.search(rb'"max_tokens":(\d+)', self._body)
        tokens = int(told[1]) if told else DEFAULT_TOKENS
        stream = b'"stream":false' not in self._body[:4096]
        self._body = bytearray()
        self._plan.add(Stream(self.transport, arrived, tokens, self._chat, stream))


class Stream:
    """An answer under way."""

    __slots__ = ("_arrived", "_chat", "_sent", "_stream", "_transport", "due_ns", "left", "tokens")

    def __init__(self, transport: Any, arrived: int, tokens: int, chat: bool, stream: bool) -> None:
        self._transport, self._arrived, self._chat, self._stream = transport, arrived, chat, stream
        self.tokens = self.left = max(tokens, 1)
        self.due_ns = 0
        self._sent = 0

    @property
    def whole(self) -> bool:
        """Whether all is sent at once."""
        return not self._stream

    def send(self) -> bool:
        """Send what is due; whether more follows."""
        if self._transport.is_closing():
            return False
        now = monotonic_ns()
        first = self.left == self.tokens
        said = f"A{self._arrived} S{now} " if first else f"S{now} "
        if not self._stream:
            choice = self._choice(said, "message", '"length"')
            body = f'{{"object":"null","choices":[{choice}],"usage":{self._usage()}}}'.encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)
            return False
        self.left -= 1
        data = self._event(said)
        if first:
            data = _HEAD + data
        if not self.left:
            end = (
                f'data: {{"object":"null","choices":[],"usage":{self._usage()}}}\n\ndata: [DONE]\n\n'.encode()
            )
            data += b"%x\r\n%s\r\n0\r\n\r\n" % (len(end), end)
        self._transport.write(data)
        return self.left > 0

    def _event(self, said: str) -> bytes:
        choice = self._choice(said, "delta", "null" if self.left else '"length"')
        event = f'data: {{"object":"null","choices":[{choice}]}}\n\n'.encode()
        return b"%x\r\n%s\r\n" % (len(event), event)

    def _choice(self, said: str, name: str, finish: str) -> str:
        content = f'"{name}":{{"content":"{said}"}}' if self._chat else f'"text":"{said}"'
        return f'{{"index":0,{content},"finish_reason":{finish}}}'

    def _usage(self) -> str:
        return json.dumps({"prompt_tokens": 1, "completion_tokens": self.tokens})


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Plan:
    """What is to be sent when."""

    def __init__(self, ttft_us: int, gap_us: int) -> None:
        self._ttft_ns, self._gap_ns = ttft_us * US, gap_us * US
        self._due: list[tuple[int, int, Stream]] = []
        self._number = 0
        self._alarm = alarm(asyncio.get_running_loop(), self._ring)

    def add(self, stream: Stream) -> None:
        """A request has arrived."""
        wait = self._ttft_ns + (stream.tokens - 1) * self._gap_ns * stream.whole
        self._push(monotonic_ns() + wait, stream)
        self._arm()

    def _push(self, due_ns: int, stream: Stream) -> None:
        stream.due_ns = due_ns
        self._number += 1
        heapq.heappush(self._due, (due_ns, self._number, stream))

    def _arm(self) -> None:
        if self._due:
            self._alarm.set(self._due[0][0])

    def _ring(self) -> None:
        now = monotonic_ns()
        for _ in range(BURST):
            if not self._due or self._due[0][0] > now:
                break
            due, _, stream = heapq.heappop(self._due)
            if stream.send():
                self._push(due + self._gap_ns, stream)
        self._arm()


async def serve(ttft_us: int, gap_us: int) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    plan = Plan(ttft_us, gap_us)
    server = await loop.create_server(lambda: Engines(plan), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    gc.disable()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    server.close()


def main() -> None:
    """The process."""
    short_slices()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    told = serve(int(sys.argv[1]), int(sys.argv[2]))
    try:
        import uvloop
    except ImportError:
        asyncio.run(told)
    else:
        uvloop.run(told)


if __name__ == "__main__":
    main()
