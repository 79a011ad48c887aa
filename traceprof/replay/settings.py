"""How a workload is to be sent, and where."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from traceprof.engines.bodies import APIS
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay.pacing import MODES


@dataclass(frozen=True)
class Options:
    """How a workload is to be sent; seconds, unless a name says otherwise."""

    model: str | None = None  # to ask for; None: what the trace's clients asked for
    api: str | None = (
        None  # an API of the engine other than the one that fits the row: responses, messages, native, ...
    )
    mode: str = "partly-open"  # see pacing
    concurrency: int = 0  # of mode closed
    speed: float = 1.0  # 2: arrivals and times to think are halved
    history: str = "recorded"  # live: later turns carry the engine's own answers
    processes: int = 1
    stream: bool = True
    pin_output: bool = True  # make the engine generate as many tokens as recorded, where it can be made to
    salt: str | None = None  # parts this run's prefix cache from other runs'
    connect_s: float = 30.0
    first_byte_s: float = 600.0
    stall_s: float = 120.0  # between two receives
    total_s: float = 3600.0
    drain_s: float = 0.0  # how long answers under way are waited for when the run is stopped
    retries: int = 0  # of 429, 5xx, refused and reset
    max_connections: int | None = None
    connections_ahead: int = 0  # opened before the clock runs
    ca: Path | None = None  # certificates to trust instead of the system's
    api_key_env: str | None = None  # name of the variable that holds the key
    keep_text: bool = False
    window_requests: int = 2048  # made ahead of their time
    window_bytes: int = 128 << 20
    count: Callable[[str], int] | None = None  # tokens of an answer, where the engine does not tell

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"no mode {self.mode}", remedy=f"choose one of {', '.join(MODES)}")
        if self.mode == "closed" and self.concurrency < self.processes:
            raise UsageError(
                "a closed loop needs a concurrency", remedy="give --concurrency N, at least one a process"
            )
        if self.mode != "closed" and self.concurrency:
            raise UsageError(
                f"a concurrency is for a closed loop, and the mode is {self.mode}",
                remedy="say --mode closed, or leave --concurrency out",
            )
        if self.api is not None and self.api not in APIS:
            raise UsageError(f"no API is called {self.api}", remedy=f"choose one of {', '.join(APIS)}")
        if self.history not in ("recorded", "live"):
            raise UsageError(f"no history {self.history}", remedy="choose recorded or live")
        if not self.speed > 0 or self.processes < 1 or self.retries < 0:
            raise UsageError("speed and processes must be above zero, retries not below")
        if min(self.connect_s, self.first_byte_s, self.stall_s, self.total_s) <= 0:
            raise UsageError("a deadline must be above zero")

    def api_key(self) -> str | None:
        """The key itself; it goes into requests and nowhere else."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UsageError(
                f"the environment has no {self.api_key_env}", remedy=f"export {self.api_key_env}=..."
            )
        if not key.isascii() or not key.isprintable():
            raise UsageError(f"{self.api_key_env} does not hold a key: there is more than letters in it")
        return key


_BARE = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")  # a host and its port, which hold no secret


class Target(NamedTuple):
    """Where requests go.

    >>> Target.of("http://127.0.0.1:8000/v1/")
    Target(host='127.0.0.1', port=8000, tls=False, base='/v1')
    >>> Target.of("https://example.com").path("/v1/completions")
    '/v1/completions'
    """

    host: str
    port: int
    tls: bool
    base: str  # path before every path of the engine

    @classmethod
    def of(cls, url: str) -> Target:
        """From a URL; raises UsageError where it is none of a server."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if _BARE.fullmatch(url):
            raise UsageError(f"{url} is not the URL of a server", remedy=f"write http://{url}")
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise UsageError(
                "not the URL of a server, which begins with http:// or https:// and ends in no ?query",
                remedy="give one like http://127.0.0.1:8000",
            )
        if parts.username or parts.password:
            raise UsageError(
                f"the URL of {host} holds a password", remedy="put it into the environment: --api-key-env"
            )
        tls = parts.scheme == "https"
        return cls(host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    def path(self, path: str) -> str:
        """Where a path of the engine is; `/v1` may stand in both.

        >>> Target.of("http://h/proxy/v1").path("/v1/chat/completions")
        '/proxy/v1/chat/completions'
        """
        if self.base.endswith("/v1") and path.startswith("/v1/"):
            return self.base[:-3] + path
        return self.base + path

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def addresses(self) -> list[tuple[str, int]]:
        """Where it can be reached, best first; asked once, so that no request waits for a name."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise TraceprofError(f"no host {self.host}", remedy="check the URL of the engine") from None
        return list(dict.fromkeys((str(to[0]), int(to[1])) for *_, to in found))
