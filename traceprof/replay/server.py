"""What a server is asked beside the measured requests: whether it is ready, what it serves, what it holds; and to empty its cache.

None of these questions leaves a trace in the prefix cache.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from traceprof import engines
from traceprof.engines import exposition
from traceprof.engines.asking import Ask, Reply, asker
from traceprof.engines.base import Capacity, Engine
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay.settings import Target

_VERSION_KEYS = ("version", "build_info")
_POLL_S = 0.1
_UNKNOWN_PATH = (404, 405, 501)  # the server does not have it, or was not started with it


class StoppedError(TraceprofError):
    """The user gave up while an engine was waited for."""


class Held(NamedTuple):
    """How many tokens of KV a server holds."""

    tokens: int | None
    source: str | None  # where it says so


class Counters(NamedTuple):
    """Where an engine's counters are, if not where it answers: at another port, or those of the engines behind a router.

    >>> Counters.of("http://b:9090"), Counters.of("http://b/prometheus/metrics").path
    (Counters(base='http://b:9090', path='/metrics'), '/prometheus/metrics')
    """

    base: str
    path: str

    @classmethod
    def of(cls, url: str) -> Counters:
        """From a URL, whose path is /metrics where it has none; raises UsageError where it is none of a server."""
        target = Target.of(url)
        return cls(f"{'https' if target.tls else 'http'}://{target.authority}", target.base or "/metrics")

    @property
    def authority(self) -> str:
        """Its host and port."""
        return Target.of(self.base).authority

    def asking(self, ca: Path | None = None, timeout_s: float = 10) -> Ask:
        """A way to read it; the key of the engine's API is not sent there."""
        return asking(self.base, None, ca, timeout_s)


class Flushed(NamedTuple):
    """What became of emptying a prefix cache."""

    how: str  # what was sent, or what to do where nothing can be
    supported: bool
    ok: bool
    why: str | None = None  # not, or not known


def find(url: str, api_key: str | None = None, ca: Path | None = None) -> Engine:
    """The engine that answers at a URL; the plain one where it cannot be told."""
    ask = asking(url, api_key, ca)
    if ask("GET", "/", None).status == 0 and ask("GET", "/v1/models", None).status == 0:
        raise TraceprofError(
            f"nothing answers at {Target.of(url).authority}", remedy="start the engine, or check the URL"
        )
    return engines.engine(engines.detect(ask))


def asking(url: str, api_key: str | None, ca: Path | None, timeout_s: float = 10) -> Ask:
    """A way to ask a server, with a key, and with the certificates to trust in place of the system's."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        context = None if ca is None else ssl.create_default_context(cafile=ca)
    except OSError:
        raise UsageError("holds no certificates", path=ca, remedy="give a file of them in PEM") from None
    return asker(url, headers, timeout_s=timeout_s, context=context)


def ready(
    engine: Engine,
    url: str,
    deadline_s: float = 600,
    *,
    api_key: str | None = None,
    ca: Path | None = None,
    alive: Callable[[], bool] = lambda: True,
    stop: threading.Event | None = None,
) -> float:
    """Wait until an engine serves requests; the seconds that it took. `alive` says whether waiting is of any use, `stop` ends it."""
    ask = asking(url, api_key, ca, min(10, deadline_s))
    begun = time.monotonic()
    while True:
        reply = ask("GET", engine.ready, None)
        if _is_ready(engine, reply):
            return time.monotonic() - begun
        if reply.status in (401, 403):
            raise TraceprofError(
                f"{engine.label} at {Target.of(url).authority} wants a key ({reply.status})",
                remedy="give --api-key-env NAME",
            )
        if not alive():
            raise TraceprofError(f"{engine.label} ended before it was ready")
        waited = time.monotonic() - begun
        if waited >= deadline_s:
            said = f"answered {reply.status}" if reply.status else "did not answer"
            raise TraceprofError(
                f"{engine.label} at {Target.of(url).authority} was not ready after {deadline_s:g} s: {engine.ready} {said}",
                remedy="start it, check the URL, or wait longer",
            )
        if stop is None:
            time.sleep(min(_POLL_S, deadline_s))
        elif stop.wait(min(_POLL_S, deadline_s)):
            raise StoppedError("stopped while an engine was waited for", remedy="go on with --resume")


def _is_ready(engine: Engine, reply: Reply) -> bool:
    if engine.name == "openai":  # not every server lists its models
        return reply.ok or reply.status in _UNKNOWN_PATH
    return reply.ok and (engine.ready != engine.models or bool(_models(reply)))


def models(engine: Engine, url: str, api_key: str | None = None, ca: Path | None = None) -> list[str]:
    """Names of the models that it serves, as far as it lists them."""
    return _models(asking(url, api_key, ca)("GET", engine.models, None))


def _models(reply: Reply) -> list[str]:
    told = reply.json() if reply.ok else {}
    listed = told.get("data") or told.get("models") or told.get("items")
    if not isinstance(listed, list):
        return []
    names = [item.get("id") or item.get("name") for item in listed if isinstance(item, dict)]
    return [name for name in names if isinstance(name, str)]


def version(engine: Engine, url: str, api_key: str | None = None, ca: Path | None = None) -> str | None:
    """The version that it names itself."""
    if engine.version is None:
        return None
    told = asking(url, api_key, ca)("GET", engine.version, None).json()
    found = next((told[key] for key in _VERSION_KEYS if isinstance(told.get(key), str)), None)
    return found[:100] if found else None


def capacity(
    engine: Engine,
    url: str,
    api_key: str | None = None,
    ca: Path | None = None,
    metrics: Sequence[str] = (),
) -> Held:
    """Tokens of KV that it holds, as it says itself, or as its counters at `metrics` do."""
    for place in engine.capacity:
        told = _told(engine, place, url, api_key, ca, metrics)
        tokens = round(sum(sum(_products(place, reply)) for reply in told))
        if tokens:
            return Held(tokens, f"{place.path}: {' x '.join(place.factors)}")
    return Held(None, None)


def settings(
    engine: Engine,
    url: str,
    api_key: str | None = None,
    ca: Path | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, int]:
    """Options of its cache's model, as far as it tells them and its replicas agree: block_size, page_size, slots."""
    told = {
        name: {
            value
            for reply in _told(engine, place, url, api_key, ca, metrics)
            for value in _products(place, reply)
        }
        for name, place in engine.settings.items()
    }
    return {name: round(values.pop()) for name, values in told.items() if len(values) == 1 and all(values)}


def _told(
    engine: Engine, place: Capacity, url: str, api_key: str | None, ca: Path | None, metrics: Sequence[str]
) -> list[Reply]:
    """What it answers there; where that is among its counters and those are elsewhere, what each of those says."""
    if metrics and engine.telemetry is not None and place.path == engine.telemetry.path:
        elsewhere = [Counters.of(one) for one in metrics]
        return [one.asking(ca)("GET", one.path, None) for one in elsewhere]
    return [asking(url, api_key, ca)("GET", place.path, None)]


def _products(place: Capacity, reply: Reply) -> list[float]:
    """The product of a place's factors, one a replica; empty where they are not told."""
    if not reply.ok:
        return []
    if reply.json():
        numbers = [_walk(reply.json(), factor.split(".")) for factor in place.factors]
        known = [number for number in numbers if number is not None]
        return [prod(known)] if len(known) == len(numbers) else []
    samples = exposition.parse(reply.body.decode("utf-8", "replace"))
    told = [exposition.factor(name, samples) for name in place.factors]
    if len({len(values) for values in told}) > 1:
        return []
    return [prod(of_one) for of_one in zip(*told, strict=True)]


def _walk(value: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def flush(
    engine: Engine,
    url: str,
    *,
    model: str | None = None,
    api_key: str | None = None,
    ca: Path | None = None,
    deadline_s: float = 30,
) -> Flushed:
    """Empty its prefix cache, and say whether that could be done. An engine that is still busy is asked again until the deadline."""
    told = engine.flush
    if told is None:
        return Flushed(engine.between_runs, False, False, f"{engine.label} has no way to empty its cache")
    how = f"{told.method} {told.path}"
    ask = asking(url, api_key, ca, max(deadline_s, 1))
    paths = [told.path]
    if told.slots is not None:
        count = _slots(ask, told.slots)
        if not count:
            return Flushed(how, False, False, f"{told.slots} does not tell how many slots there are")
        paths = [told.path.format(slot=slot) for slot in range(count)]
    if told.body is not None and "MODEL" in told.body.values() and model is None:
        return Flushed(how, True, False, "no model is named")
    body = None
    if told.body is not None:
        body = json.dumps({k: model if v == "MODEL" else v for k, v in told.body.items()}).encode()
    end = time.monotonic() + deadline_s
    for path in paths:
        while True:
            reply = ask(told.method, path, body)
            if reply.ok and (told.success is None or reply.json().get(told.success) == told.success_value):
                break
            if reply.status in _UNKNOWN_PATH:
                return Flushed(how, False, False, f"answered {reply.status}: it needs {told.needs}")
            if reply.status in (401, 403):
                return Flushed(how, True, False, f"answered {reply.status}: it wants a key")
            if time.monotonic() >= end:
                said = f"answered {reply.status}" if reply.status else "did not answer"
                return Flushed(how, True, False, f"{said} and did not do it; it needs {told.needs}")
            time.sleep(min(0.25, deadline_s))
    return Flushed(how, True, True)


def _slots(ask: Ask, path: str) -> int:
    told = ask("GET", path, None).json()
    count = told.get("total_slots")
    if isinstance(count, int) and not isinstance(count, bool):
        return max(count, 0)
    items = told.get("items")
    return len(items) if isinstance(items, list) else 0
