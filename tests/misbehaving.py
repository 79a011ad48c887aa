"""A server with faults, in its own process: the prompt of a request says which, as `fault=NAME`; without one it answers well.

    with misbehaving(log, certificate=...) as server: ...

The faults are the functions below, by their names.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

from tests.knownserver import HEAD, Server, chunked, event, running, usage

HUGE = 5 << 20  # characters of one event


def misbehaving(log: Path, *, port: int = 0, certificate: Path | None = None):
    """This module's server; with a certificate (and its key, in one file) it speaks TLS."""
    words = [] if certificate is None else [certificate]
    return running("tests.misbehaving", log, *words, port=port, tls=certificate is not None)


def _reset(sock: socket.socket) -> dict:
    """Close so that the client gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return {"close": True}


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


def _whole(sock: socket.socket, status: str, body: dict, *lines: str) -> None:
    data = json.dumps(body).encode()
    sock.sendall(
        _head("Content-Type: application/json", f"Content-Length: {len(data)}", *lines, status=status) + data
    )


class Faults:
    """One function a fault: writes to the socket, returns what is to be logged."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.times: dict[str, int] = {}

    def count(self, key: str) -> int:
        """How often this was asked, this time included."""
        with self.lock:
            self.times[key] = self.times.get(key, 0) + 1
            return self.times[key]

    def reset_before(self, sock, asked):
        return _reset(sock)

    def reset_while_working(self, sock, asked):
        """Reads the request, computes, and dies before a word."""
        self.server.until(self.server.now() + 0.3)
        return _reset(sock)

    def reset_midstream(self, sock, asked):
        sock.sendall(HEAD + chunked(event("one ")) + chunked(event("two ")))
        return _reset(sock)

    def close_midstream(self, sock, asked):
        sock.sendall(HEAD + chunked(event("one ")))
        return {"close": True}

    def silent(self, sock, asked):
        sock.recv(1)  # until the client gives up
        return {"close": True}

    def stall(self, sock, asked):
        sock.sendall(HEAD + chunked(event("one ")))
        sock.recv(1)
        return {"close": True}

    def trickle(self, sock, asked):
        """Never stalls, never ends."""
        sock.sendall(HEAD)
        try:
            while True:
                self.server.until(self.server.now() + 0.05)
                sock.sendall(chunked(event("x")))
        except OSError:
            return {"close": True}

    def not_http(self, sock, asked):
        sock.sendall(b"I am no server at all\r\n\r\n")
        return {"close": True}

    def not_sse(self, sock, asked):
        sock.sendall(HEAD + chunked(b"data: {not json\n\n") + chunked(b"data: [DONE]\n\n") + chunked(b""))

    def bad_chunk(self, sock, asked):
        sock.sendall(HEAD + chunked(event("one ")) + b"zz\r\nwhat\r\n")
        return {"close": True}

    def endless_head(self, sock, asked):
        try:
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                sock.sendall(b"X-Filler: " + b"x" * 60_000 + b"\r\n")
        except OSError:
            return {"close": True}

    def huge_event(self, sock, asked):
        n = asked.body["max_tokens"]
        body = event("y" * HUGE, "length") + usage(asked.body, n) + b"data: [DONE]\n\n"
        sock.sendall(HEAD + chunked(body) + chunked(b""))

    def one_byte_at_a_time(self, sock, asked):
        body = event("one ") + event("two", "stop") + usage(asked.body, 2) + b"data: [DONE]\n\n"
        whole = HEAD + chunked(body) + chunked(b"")
        for i in range(len(whole)):
            sock.sendall(whole[i : i + 1])

    def wrong_usage(self, sock, asked):
        told = {
            "prompt_tokens": "many",
            "completion_tokens": -3,
            "prompt_tokens_details": {"cached_tokens": 2.5},
        }
        data = b"data: " + json.dumps({"choices": [], "usage": told}).encode() + b"\n\n"
        sock.sendall(
            HEAD + chunked(event("one", "stop")) + chunked(data) + chunked(b"data: [DONE]\n\n") + chunked(b"")
        )

    def error_event(self, sock, asked):
        data = b'data: {"error": {"type": "overloaded", "message": "secret words"}}\n\n'
        sock.sendall(HEAD + chunked(event("one")) + chunked(data) + chunked(b""))

    def empty(self, sock, asked):
        sock.sendall(HEAD + chunked(b"data: [DONE]\n\n") + chunked(b""))

    def truncated(self, sock, asked):
        sock.sendall(HEAD + chunked(event("one")) + chunked(b""))

    def status_400(self, sock, asked):
        _whole(
            sock, "400 Bad Request", {"error": {"type": "invalid_request_error", "message": "secret words"}}
        )

    def status_429(self, sock, asked):
        _whole(sock, "429 Too Many Requests", {"error": {"type": "rate_limit"}}, "Retry-After: 0")

    def status_503_twice(self, sock, asked):
        if self.count(asked.body["prompt"]) > 2:
            return self.server.stream(sock, asked)
        return _whole(sock, "503 Service Unavailable", {"error": {"type": "busy"}}, "Retry-After: 0")

    def status_503_once(self, sock, asked):
        if self.count(asked.body["prompt"]) > 1:
            return self.server.stream(sock, asked)
        return _whole(sock, "503 Service Unavailable", {"error": {"type": "busy"}}, "Retry-After: 1")

    def status_429_for_long(self, sock, asked):
        _whole(sock, "429 Too Many Requests", {"error": {"type": "rate_limit"}}, "Retry-After: 7000")

    def close_delimited(self, sock, asked):
        body = event("one ") + event("two", "stop") + usage(asked.body, 2) + b"data: [DONE]\n\n"
        sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)
        return {"close": True}

    def close_after(self, sock, asked):
        """Answers well, says nothing of closing, and closes."""
        self.server.stream(sock, asked)
        return {"close": True}

    def says_close(self, sock, asked):
        _whole(sock, "200 OK", {"choices": [{"text": "one", "finish_reason": "stop"}]}, "Connection: close")
        return {"close": True}

    def continues(self, sock, asked):
        sock.sendall(b"HTTP/1.1 100 Continue\r\nX-Filler: 1\r\n\r\n")
        self.server.stream(sock, asked)

    def says_too_much(self, sock, asked):
        """A second answer right behind the first, which nobody asked for."""
        body = event("one", "stop") + b"data: [DONE]\n\n"
        second = chunked(event("not for you", "stop")) + chunked(b"")
        sock.sendall(HEAD + chunked(body) + chunked(b"") + HEAD + second)

    def whole_at_once(self, sock, asked):
        _whole(
            sock, "200 OK",
            {"choices": [{"text": "all of it", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 3}},
        )  # fmt: skip


class Misbehaving(Server):
    """Answers as the prompt says."""

    def __init__(self, port: int, log: str, certificate: str | None):
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        self.faults = Faults()
        self.faults.server = self
        super().__init__(port, log, 0.01, 0.002, context)

    def answer(self, sock, asked):
        found = re.search(r"fault=(\w+)", json.dumps(asked.body))
        if found is None:
            return self.stream(sock, asked)
        return getattr(self.faults, found[1])(sock, asked)

    def stream(self, sock, asked):
        """A good answer."""
        return super().answer(sock, asked)


if __name__ == "__main__":
    Misbehaving(int(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None).serve()
