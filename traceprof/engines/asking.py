"""Small questions to a server beside the measured requests: is it ready, what does it hold, what has it counted.

Blocking, one connection a question: it is asked before and after a run, or from a thread during it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from traceprof.errors import UsageError

LARGEST = 64 << 20  # bytes of an answer that are read


class Reply(NamedTuple):
    """What a server answered; status 0: it did not."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any]:
        """Its JSON object; empty where it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        if isinstance(value, list):  # llama.cpp's /slots
            return {"items": value}
        return value if isinstance(value, dict) else {}


Ask = Callable[[str, str, bytes | None], Reply]
"""`ask(method, path, body)`; never raises for what a server does."""


def asker(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 10,
    context: ssl.SSLContext | None = None,
) -> Ask:
    """A way to ask the server at a base URL, which may end in /v1.

    No proxy of the environment stands between, and no redirect is followed.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _AsItIs()]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    if not url.startswith(("http://", "https://")):
        raise UsageError("not the URL of a server", remedy="give one like http://127.0.0.1:8000")
    base = url.rstrip("/").removesuffix("/v1")  # which stands in the paths

    def ask(method: str, path: str, body: bytes | None) -> Reply:
        request = urllib.request.Request(base + path, data=body, method=method, headers=dict(headers or {}))
        if body is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with opener.open(request, timeout=timeout_s) as response:
                told = {name.lower(): value for name, value in response.headers.items()}
                said = response.read(LARGEST)
                if response.length:  # it broke off
                    return Reply(0, {}, b"")
                return Reply(response.status, told, said)
        except (OSError, http.client.HTTPException, ValueError):
            return Reply(0, {}, b"")

    return ask


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Leaves errors and redirects as the answers that they are."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        """Whatever came."""
        return response

    https_response = http_response
