"""A server whose times are known: its own process, a thread a connection, the send time in every chunk.

    with known_server(ttft_s=0.05, gap_s=0.01) as server:
        ... server.url, server.seen()

It answers every POST with `max_tokens` chunks of server-sent events in OpenAI's shape, the first `ttft_s` after the request has
arrived, the others `gap_s` apart. The content of a chunk is the time at which it was sent, ns of the monotonic clock, and a
space. What it saw is a file of JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent


class Asked(NamedTuple):
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    arrived_ns: int
    connection: int


class Running(NamedTuple):
    """A server in its own process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    tls: bool = False

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    def seen(self) -> list[dict[str, Any]]:
        """What it saw, in the order of arrival."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sorted(map(json.loads, lines), key=lambda one: one["arrived_ns"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(module: str, log: Path, *words: object, port: int = 0, tls: bool = False):
    """A server module of the tests in its own process, until the block ends."""
    command = [sys.executable, "-m", module, str(port), str(log), *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Running(process, int(process.stdout.readline()), log, tls)
        finally:
            process.kill()


def known_server(log: Path, *, ttft_s: float = 0.03, gap_s: float = 0.005, port: int = 0):
    """This module's server."""
    return running("tests.knownserver", log, ttft_s, gap_s, port=port)


# ---- the process


class Server:
    """Reads requests, answers by `answer`."""

    def __init__(self, port: int, log: str, ttft_s: float, gap_s: float, tls: ssl.SSLContext | None = None):
        self.ttft_s, self.gap_s, self.tls = ttft_s, gap_s, tls
        self._log = Path(log).open("a")  # noqa: SIM115
        self._lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        print(self.listener.getsockname()[1], flush=True)

    def serve(self) -> None:
        """For ever."""
        number = 0
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._connection, args=(sock, number), daemon=True).start()
            number += 1

    def _connection(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            lines = sock.makefile("rb")
            while (asked := self._read(lines, number)) is not None:
                told = {**asked._asdict(), **(self.answer(sock, asked) or {})}
                with self._lock:
                    self._log.write(json.dumps(told) + "\n")
                    self._log.flush()
                if told.get("close"):
                    break
        with contextlib.suppress(OSError):
            sock.close()

    def _read(self, lines: Any, number: int) -> Asked | None:
        first = lines.readline()
        if not first:
            return None
        headers = {}
        while (line := lines.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = lines.read(int(headers.get("content-length", 0)))
        arrived = time.monotonic_ns()
        method, path, _ = first.decode().split()
        return Asked(method, path, headers, json.loads(body) if body else {}, arrived, number)

    def answer(self, sock: socket.socket, asked: Asked) -> dict[str, Any]:
        """The chunks at their times; what to log of them."""
        sock.sendall(HEAD)
        n = asked.body.get("max_tokens", 3)
        sent = []
        for i in range(n):
            self.until(asked.arrived_ns / 1e9 + self.ttft_s + i * self.gap_s)
            sent.append(time.monotonic_ns())
            sock.sendall(chunked(event(f"{sent[-1]} ", "length" if i == n - 1 else None)))
        sock.sendall(chunked(usage(asked.body, n)) + chunked(b"data: [DONE]\n\n") + chunked(b""))
        return {"sent_ns": sent}

    @staticmethod
    def now() -> float:
        return time.monotonic()

    @staticmethod
    def until(at_s: float) -> None:
        time.sleep(max(0.0, at_s - time.monotonic()))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    """One chunk of a body; the last one is empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str, finish: str | None = None) -> bytes:
    """An event of a stream of completions and of chats in one."""
    choice = {"index": 0, "text": text, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"object": "chunk", "choices": [choice]}).encode() + b"\n\n"


def usage(body: dict[str, Any], output: int) -> bytes:
    """The event of counts; words are tokens."""
    words = len(json.dumps(body.get("messages") or body.get("prompt")).split())
    told = {
        "prompt_tokens": words, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": words // 2},
    }  # fmt: skip
    return b"data: " + json.dumps({"object": "chunk", "choices": [], "usage": told}).encode() + b"\n\n"


if __name__ == "__main__":
    Server(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])).serve()
