"""Scenarios: which workloads go to which engines, how often, in which order, and when an engine is fast enough.

    about = "..."
    workloads = ["shared.parquet", "unique.parquet"]  # beside the scenario, or where the command runs
    repeats = 3                     # measured runs of each workload on each engine
    order = "interleaved"           # A B A B, so that what drifts hits all alike; "mirrored" A B B A; "random" drawn anew in each repeat; "blocked" A A B B
    warmup_runs = 1                 # of each engine before all others, in no figure
    cache = "auto"                  # between runs: flush, salt, restart (of launched engines), keep; auto: the first that there is
    capacity_tokens = 200000        # KV tokens that every engine is to have
    pause_s = 5                     # between runs

    [engines.a]                     # in the order in which they take turns
    engine = "vllm"                 # without it, what its name says (vllm-a), else the plain one
    url = "http://127.0.0.1:8000"   # or launch = "vllm:gpu", with variables = {model = "..."}
    metrics = ["http://b:9090"]     # where its counters are, if not at url: behind a router one of each engine
    cache = {block_size = 16}       # options of the model of its cache (docs/engines.md) that it does not tell itself
    model = "..."
    api_key_env = "NAME"

    [options]                       # of the client, by the names of traceprof replay's options
    mode = "partly-open"

    [slo]                           # METRIC_PERCENTILE_s, and the share of requests that may fail
    ttft_p99_s = 2.0
    failed = 0.01

    [sweep]                         # instead of one rate: the highest that holds the SLO, as a multiple of the recorded one
    low = 0.5
    high = 8.0
    precision = 0.05                # of the answer, as a share of it
    repeats = 3                     # runs at a rate, the majority decides

The search is pure: `sweep` is told what a rate did, and says which is next.
"""

from __future__ import annotations

import os
import random
import re
import tomllib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from traceprof import engines
from traceprof.engines.base import Engine
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay.launch import Recipe
from traceprof.replay.settings import Options, Target

ORDERS = ("interleaved", "mirrored", "random", "blocked")
CACHES = ("auto", "flush", "salt", "restart", "keep")
_OBJECTIVE = re.compile(r"(ttft|tpot|itl|e2e)_(p50|p90|p95|p99|mean|max)_s")
_OURS = {"model", "salt", "api_key_env", "speed", "count"}  # options that a scenario sets itself
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Contender:
    """One engine of a scenario: where it is, or what starts it."""

    name: str
    engine: Engine
    url: str | None = None
    launch: str | None = None  # a recipe
    variant: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    api_key_env: str | None = None
    metrics: tuple[str, ...] = ()  # URLs of its counters, where they are not at `url`


@dataclass(frozen=True)
class Slo:
    """When an engine is fast enough: seconds by metric and percentile of `latency.summary`."""

    limits: Mapping[tuple[str, str], float] = field(default_factory=dict)
    failed: float = 0.0  # share of requests that may not end well


@dataclass(frozen=True)
class Rates:
    """Where the highest rate is looked for, as multiples of the recorded one."""

    low: float
    high: float
    precision: float = 0.05
    repeats: int = 1


@dataclass(frozen=True)
class Scenario:
    """What a scenario file says."""

    path: Path
    workloads: tuple[Path, ...]
    engines: tuple[Contender, ...]
    about: str = ""
    repeats: int = 1
    order: str = "interleaved"
    warmup_runs: int = 0
    cache: str = "auto"
    capacity_tokens: int | None = None
    pause_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    slo: Slo | None = None
    sweep: Rates | None = None


class Turn(NamedTuple):
    """One run of a scenario."""

    workload: Path
    engine: Contender
    repeat: int  # from 0
    warmup: bool  # in no figure


# ---- reading


def read(path: str | os.PathLike[str]) -> Scenario:
    """A scenario from its file; raises TraceprofError that names file and key."""
    path = Path(path)
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError("no such scenario", path=path) from None
    except (OSError, UnicodeDecodeError) as bad:
        raise TraceprofError(f"unreadable: {bad}", path=path) from None
    except tomllib.TOMLDecodeError as bad:
        raise TraceprofError(f"not TOML: {bad}", path=path, remedy="correct it") from None
    take = _Taker(path, told)
    workloads = take.words("workloads")
    contenders = take.table("engines")
    if not contenders:
        raise take.bad("engines", "is missing: at least one table [engines.NAME] is needed")
    made = Scenario(
        path,
        tuple(_beside(path, name) for name in workloads),
        tuple(_contender(path, name, of) for name, of in contenders.items()),
        take.text("about") or "",
        take.whole("repeats", 1, 1),
        take.one_of("order", ORDERS),
        take.whole("warmup_runs", 0, 0),
        take.one_of("cache", CACHES),
        take.whole("capacity_tokens", None, 1),
        take.number("pause_s", 0.0, 0.0),
        _options(path, take.table("options")),
        _slo(path, take.table("slo")) if "slo" in told else None,
        _rates(path, take.table("sweep")) if "sweep" in told else None,
    )
    take.nothing_else()
    if made.sweep is not None and (made.slo is None or not made.slo.limits):
        raise take.bad("sweep", "needs limits in [slo]: without one every rate is good")
    if made.cache == "restart" and any(one.launch is None for one in made.engines):
        raise take.bad("cache", "restart needs engines that are launched: a url cannot be restarted")
    return made


class _Taker:
    """Takes keys out of a table, one by one, and complains about them by name."""

    def __init__(self, path: Path, told: Mapping[str, Any], within: str = "") -> None:
        self._path, self._told, self._within, self._taken = path, told, within, set[str]()

    def bad(self, key: str, what: str) -> TraceprofError:
        return TraceprofError(f"{self._within}{key} {what}", path=self._path, remedy="correct the file")

    def _take(self, key: str) -> Any:
        self._taken.add(key)
        return self._told.get(key)

    def text(self, key: str) -> str | None:
        found = self._take(key)
        if found is not None and (not isinstance(found, str) or not found):
            raise self.bad(key, "is to be a text")
        return found

    def words(self, key: str) -> list[str]:
        found = self._take(key)
        if not isinstance(found, list) or not found or not all(isinstance(w, str) and w for w in found):
            raise self.bad(key, "is to be a list of names, with at least one in it")
        return found

    def texts(self, key: str) -> dict[str, str]:
        found = self.table(key)
        for name, value in found.items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise self.bad(f"{key}.{name}", "is to be a text or a whole number")
        return {name: str(value) for name, value in found.items()}

    def table(self, key: str) -> dict[str, Any]:
        found = self._take(key)
        if found is not None and not isinstance(found, dict):
            raise self.bad(key, "is to be a table")
        return found or {}

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        found = self._take(key)
        if found is not None and found not in choices:
            raise self.bad(key, f"is to be one of {', '.join(choices)}")
        return found or choices[0]

    def number(self, key: str, default: float | None, least: float, above: bool = False) -> Any:
        found = self._take(key)
        if found is None and key not in self._told:
            if default is None:
                raise self.bad(key, "is missing")
            return default
        good = isinstance(found, int | float) and not isinstance(found, bool)
        if not good or not (found > least or (found == least and not above)) or found == float("inf"):
            raise self.bad(
                key, f"is to be a number {'above' if above else 'from'} {least:g}{'' if above else ' on'}"
            )
        return float(found)

    def whole(self, key: str, default: int | None, least: int) -> Any:
        found = self._take(key)
        if found is None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            raise self.bad(key, f"is to be a whole number from {least} on")
        return found

    def nothing_else(self) -> None:
        for key in self._told:
            if key not in self._taken:
                raise self.bad(key, f"is not known; there are {', '.join(sorted(self._taken))}")


def _beside(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.exists() else Path(name)


def _contender(path: Path, name: str, told: Any) -> Contender:
    take = _Taker(path, told if isinstance(told, dict) else {}, f"engines.{name}.")
    if not isinstance(told, dict):
        raise TraceprofError(f"engines.{name} is to be a table", path=path, remedy="correct the file")
    if not NAME.fullmatch(name):
        raise TraceprofError(
            f"engines.{name} is no name for a folder", path=path, remedy="use letters, digits, . _ and -"
        )
    url, launch = take.text("url"), take.text("launch")
    launch, _, variant = (launch or "").partition(":")  # as --launch takes it
    launch = launch or None
    if (url is None) == (launch is None):
        raise take.bad("url", "or launch is needed, and not both")
    if url is not None:
        try:
            Target.of(url)
        except UsageError as bad:
            raise TraceprofError(f"engines.{name}.url: {bad.message}", path=path, remedy=bad.remedy) from None
    kind = take.text("engine")
    if kind is None and launch is not None:
        kind = launch if not launch.endswith(".toml") else Recipe.read(launch).engine.name
    if kind is None and (near := engines.mistyped(name)):
        raise take.bad("engine", f"is missing, and no engine is called {name}: did you mean {near}?")
    try:
        engine = engines.engine(kind) if kind else engines.named(name) or engines.engine("openai")
    except UsageError as bad:
        raise TraceprofError(f"engines.{name}.engine: {bad.message}", path=path, remedy=bad.remedy) from None
    made = Contender(
        name, engine, url, launch, take.text("variant") or variant or None, take.texts("variables"), take.table("cache"),
        take.text("model"), take.text("api_key_env"), tuple(take.words("metrics")) if "metrics" in told else (),
    )  # fmt: skip
    take.nothing_else()
    for metrics in made.metrics:
        try:
            Target.of(metrics)
        except UsageError as bad:
            raise TraceprofError(
                f"engines.{name}.metrics: {bad.message}", path=path, remedy=bad.remedy
            ) from None
    if url is not None and (made.variant or made.variables):
        raise take.bad("variables", "and variant are for engines that are launched")
    return made


_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str, "Path": str, "int": int, "float": (int, float), "bool": bool,
}  # fmt: skip


def _options(path: Path, told: dict[str, Any]) -> dict[str, Any]:
    kinds = {
        one.name: str(one.type).removesuffix(" | None") for one in fields(Options) if one.name not in _OURS
    }
    for key, value in told.items():
        kind = kinds.get(key)
        if kind is None:
            what = f"is not known; there are {', '.join(sorted(kinds))}"
        elif not isinstance(value, _TYPES[kind]) or (kind != "bool" and isinstance(value, bool)):
            what = f"is to be {'a text' if _TYPES[kind] is str else f'of type {kind}'}"
        else:
            continue
        raise TraceprofError(f"options.{key} {what}", path=path, remedy="correct the file")
    made: dict[str, Any] = {key: Path(value) if key == "ca" else value for key, value in told.items()}
    try:
        Options(**made)
    except UsageError as bad:
        raise TraceprofError(f"options: {bad.message}", path=path, remedy=bad.remedy) from None
    return made


def _slo(path: Path, told: dict[str, Any]) -> Slo:
    take = _Taker(path, told, "slo.")
    failed = take.number("failed", 0.0, 0.0)
    limits = {}
    for key in told:
        found = _OBJECTIVE.fullmatch(key)
        if found is not None:
            limits[found[1], found[2]] = take.number(key, None, 0.0, above=True)
    for key in told:
        if key != "failed" and _OBJECTIVE.fullmatch(key) is None:
            raise take.bad(
                key,
                "is no limit; they are called like ttft_p99_s: ttft, tpot, itl or e2e; p50, p90, p95, p99, mean or max",
            )
    if failed > 1:
        raise take.bad("failed", "is a share, 0 to 1")
    return Slo(limits, failed)


def _rates(path: Path, told: dict[str, Any]) -> Rates:
    take = _Taker(path, told, "sweep.")
    made = Rates(
        take.number("low", None, 0.0, above=True),
        take.number("high", None, 0.0, above=True),
        take.number("precision", 0.05, 0.0, above=True),
        take.whole("repeats", 1, 1),
    )
    take.nothing_else()
    if not made.low < made.high:
        raise take.bad("high", "is to be above low")
    return made


# ---- the order of runs


def plan(scenario: Scenario) -> list[Turn]:
    """All runs at one rate in their order: warm-ups first, then each workload on each engine, as often as asked.

    Within a repeat all engines take turns on a workload before the next one, so that what is compared lies close in time.
    """
    turns = [
        Turn(workload, engine, n, True)
        for workload in scenario.workloads[:1]
        for engine in scenario.engines
        for n in range(scenario.warmup_runs)
    ]
    if scenario.order == "blocked":
        for workload in scenario.workloads:
            for engine in scenario.engines:
                turns += [Turn(workload, engine, n, False) for n in range(scenario.repeats)]
        return turns
    for n in range(scenario.repeats):
        in_turn = list(scenario.engines)
        if scenario.order == "mirrored" and n % 2:
            in_turn.reverse()
        elif scenario.order == "random":
            random.Random(n).shuffle(in_turn)  # the same each time: a replay can be gone on with
        turns += [Turn(w, engine, n, False) for w in scenario.workloads for engine in in_turn]
    return turns


def ways(cache: str, one: Contender, endpoints: Iterable[str]) -> tuple[str, ...]:
    """How an engine's cache can be parted between runs, best first; a server that refuses the first may take the next.

    `endpoints` are those of the workloads: a salt must work on all of them.
    """
    engine = one.engine
    can = {
        "flush": engine.flush is not None,
        "salt": all(name in engine.endpoints and engine.salts(name) for name in endpoints),
        "restart": one.launch is not None,
        "keep": cache == "keep",
    }
    found = tuple(way for way in CACHES[1:] if can[way] and cache in (way, "auto"))
    if not found:
        asked = "nothing parts" if cache == "auto" else f"{cache} does not part"
        raise UsageError(
            f"{asked} the cache of {one.name} ({engine.label}) between runs",
            remedy=f'launch it, or {engine.between_runs} yourself and say --cache keep (cache = "keep")',
        )
    return found


# ---- is it fast enough, and up to which rate


class Verdict(NamedTuple):
    """Whether a run held the SLO; null where the run cannot tell."""

    holds: bool | None
    reasons: tuple[str, ...]


def judge(slo: Slo, summary: Mapping[str, Any]) -> Verdict:
    """A run's `latency.summary` against the SLO.

    A run whose client was late tells nothing if it held (the engine saw less load than planned), and nothing if it did not.
    """
    lag = summary["send_lag"]
    if not lag["valid"]:
        return Verdict(None, (lag["reason"],))
    reasons = []
    asked = summary["requests"]
    failed = asked - summary["outcomes"].get("ok", 0)
    if failed > slo.failed * asked:
        reasons.append(f"{failed} of {asked} requests failed")
    for (metric, at), limit in slo.limits.items():
        value = summary[metric][at]
        if value is None:
            if metric not in ("tpot", "itl"):  # answers of one token have neither
                reasons.append(f"there is no {metric}")
        elif value > limit:
            reasons.append(f"{metric} {at} {value:.3f} s > {limit:g} s")
    return Verdict(not reasons, tuple(reasons))


class Trial(NamedTuple):
    """One run of a sweep."""

    rate: float
    held: bool


class Found(NamedTuple):
    """What a sweep found."""

    rate: float | None  # highest that was seen to hold; null: not even the lowest
    failed_at: float | None  # lowest above it that was seen not to; null: the highest held
    trials: tuple[Trial, ...]


def sweep(rates: Rates) -> Generator[float, bool, Found]:
    """Look for the highest rate that holds: yields the rate to run at, is sent whether it held, returns what it found.

    The ends first, then the geometric middle of what is left, until that is within the precision. At each rate runs are made until
    one answer has the majority of `repeats`. A generator, so that the searches of several engines can take turns.
    """
    trials: list[Trial] = []
    for end in (rates.low, rates.high):
        held = yield from _decide(end, rates.repeats, trials)
        if end == rates.low and not held:
            return Found(None, rates.low, tuple(trials))
        if end == rates.high and held:
            return Found(rates.high, None, tuple(trials))
    good, bad = rates.low, rates.high
    while bad / good > 1 + rates.precision:
        middle = sqrt(good) * sqrt(bad)
        if not good < middle < bad:  # no number between them
            break
        if (yield from _decide(middle, rates.repeats, trials)):
            good = middle
        else:
            bad = middle
    return Found(good, bad, tuple(trials))


def _decide(rate: float, repeats: int, trials: list[Trial]) -> Generator[float, bool, bool]:
    """Runs at one rate until the majority is certain; a tie does not hold."""
    held = failed = 0
    while 2 * held <= repeats and 2 * failed < repeats:
        answer = yield rate
        trials.append(Trial(rate, answer))
        held, failed = held + answer, failed + (not answer)
    return 2 * held > repeats


def search(rates: Rates, holds: Callable[[float], bool]) -> Found:
    """A sweep of one engine: `holds` makes a run at a rate.

    >>> round(search(Rates(1, 16, precision=0.01), lambda rate: rate <= 5).rate, 2)
    4.99
    """
    steps = sweep(rates)
    rate = next(steps)
    while True:
        try:
            rate = steps.send(holds(rate))
        except StopIteration as over:
            found: Found = over.value
            return found
