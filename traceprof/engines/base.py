"""What traceprof knows of a serving engine, as one frozen record: `Engine`.

Facts only. What they are used for: `bodies.py` writes requests, `answers.py` reads answers, `replay/` asks, scrapes, flushes
and launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OUTPUT = "OUTPUT"
"""In `Endpoint.pin`: the number of tokens that are to be generated."""

MEANINGS = (
    "prompt_tokens",  # counter: tokens of prompts, cached part included unless `Telemetry.prompt_excludes_cached`
    "cached_tokens",  # counter: of them, served from the prefix cache
    "queries", "hits",  # counters: tokens looked up in the prefix cache, and found
    "generated",  # counter: tokens generated
    "requests",  # counter: requests that ended
    "preemptions",  # counter: requests that lost their memory and were computed again
    "running", "waiting",  # gauges: requests
    "kv_usage",  # gauge, 0..1: memory of requests that run; what is only cached counts as free
)  # fmt: skip

GAUGES = ("running", "waiting", "kv_usage")
"""Of the meanings, those that hold a state instead of a count."""

SHARES = ("kv_usage",)
"""Of the gauges, those that are shares of a whole: over several replicas the mean counts, not the sum."""


class Endpoint(NamedTuple):
    """One way to send a request."""

    path: str
    dialect: str  # how `answers.read_answer` reads what comes back
    salt: str | None = None  # field of the body that parts prefix caches
    pin: Mapping[str, Any] = {}  # fields that make the engine generate exactly so many tokens
    limit: str = "max_tokens"  # field that bounds the output
    usage: bool = True  # whether a stream must be asked for its token counts


class Series(NamedTuple):
    """A Prometheus series, summed over the labels that are not named."""

    name: str  # as exposed
    labels: Mapping[str, tuple[str, ...]] = {}  # the values that count


class Capacity(NamedTuple):
    """Where the engine says how many tokens of KV it holds: a product of numbers."""

    path: str
    factors: tuple[str, ...]  # JSON: keys joined by dots. Exposition: NAME, or NAME@LABEL for a label's value


class Flush(NamedTuple):
    """How the prefix cache is emptied without a restart."""

    method: str
    path: str  # {slot} stands for every slot of llama.cpp
    needs: str  # what the server must be started with
    success: str | None = None  # key of a JSON answer that tells it; None: status 200
    success_value: Any = True  # its value
    slots: str | None = None  # path that tells how many slots there are
    body: Mapping[str, Any] | None = None  # MODEL stands for the model's name
    reloads: bool = False  # the next request loads the model again


@dataclass(frozen=True)
class Telemetry:
    """The engine's Prometheus exposition."""

    path: str
    series: Mapping[str, tuple[Series, ...]]  # by meaning; the first that is there counts
    needs: str | None = None  # what the server must be started with
    prompt_excludes_cached: bool = False
    misleading: tuple[str, ...] = ()  # names that must not be used, and why

    def __post_init__(self) -> None:
        assert self.series.keys() <= set(MEANINGS), self.series.keys() - set(MEANINGS)


@dataclass(frozen=True)
class Engine:
    """An engine, a server around one, or a proxy before one."""

    name: str  # as given on the command line
    label: str
    checked: str  # versions that the facts are from, and how: ran, read, or documented
    endpoints: Mapping[str, Endpoint]  # chat, completions, ids; some have responses, messages, generate
    ready: str  # path that answers 200 once requests are served, and leaves no trace in the cache
    models: str = "/v1/models"
    version: str | None = None  # path that tells the version, as JSON with a key `version`
    capacity: tuple[Capacity, ...] = ()
    settings: Mapping[str, Capacity] = field(
        default_factory=dict
    )  # where it tells options of its cache's model
    settings_of: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # options of its cache's model, by kind of request
    flush: Flush | None = None
    between_runs: str = "restart it"  # what empties the cache where neither flush nor salt does
    cached: str = "never"  # where a request's cached tokens are told: a path in the answer
    cached_needs: str | None = None  # flag without which they are not
    telemetry: Telemetry | None = None
    cache: str | None = None  # its model in traceprof.caches
    flags: tuple[str, ...] = ()  # what to start it with for a measured run
    notes: tuple[str, ...] = field(default=())  # what a user must know, in sentences
    unverified: tuple[str, ...] = field(default=())  # what was not seen in source or on a running server

    def pins(self, endpoint: str) -> bool:
        """Whether it can be made to generate an exact number of tokens."""
        return bool(self.endpoints[endpoint].pin)

    def salts(self, endpoint: str) -> bool:
        """Whether a field of the body parts its prefix cache."""
        return self.endpoints[endpoint].salt is not None
