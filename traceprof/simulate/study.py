"""`profile.simulation`: what each engine would do with this traffic on that hardware, and how much of it one would carry.

Each model of the trace has an engine of its own. The busiest stretch of the trace is run, with what came before it as a warm-up
that fills the caches and is in no figure. Requests are sent as they were recorded, later turns of a session when the one before
has ended and the recorded time to think is over. Then arrivals are pressed together or drawn apart until the objectives (SLO) just
hold: that speed, as a multiple of the recorded one, is what engines are compared by.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.caches import engine as cache_of
from traceprof.caches.traffic import Traffic
from traceprof.latency import spread
from traceprof.simulate.cost import Costs
from traceprof.simulate.hardware import Factors
from traceprof.simulate.host import Host
from traceprof.simulate.served import Load, Served, serve
from traceprof.workers import Progress

I64: TypeAlias = NDArray[np.int64]

MEASURED, WARM = 4_000, 2_000  # requests of the stretch, and of the warm-up before it
MODELS, PARTS = 4, 4  # the largest ones that are run apart
OPENING = 64  # tokens of a shared beginning that makes a part
NEARLY_ALL = 0.9  # share of requests from which on what they share sets nobody apart
HOURS_US = 6 * 3_600_000_000  # of a trace whose hours of the day are run apart
FEW = 50  # requests of a part, below which it is not run
QUANTILE = 0.99  # share of requests that must meet the objectives
FASTEST = 10  # doublings tried either way
SHORTEST_S = 10.0  # of a stretch that is pressed together
SHORTEST_LIMITS = 10.0  # the same, as multiples of the limit of TTFT or E2E
SLOW = -3  # halvings, after which the slowest is tried
FINE = 4  # halvings of the last doubling: 4 % apart
TTFT_S, TPOT_S = 2.0, 0.1  # where no objectives are given
TTFT_ALONE, TPOT_ALONE = 3.0, 3.0
TOKENS = 16_000_000  # of prompts in a stretch, above which it gets shorter
FEWEST = 500  # but not shorter
ASSUMPTIONS = (
    "each engine with its own defaults, each model on a machine of its own; no cold start is in these figures",
    "how fast an engine is on a card is known from few published figures: calibrate with a replay of your own",
)


class Objectives(NamedTuple):
    """What a request must keep to; seconds, None: it may take as long as it likes."""

    ttft_s: float | None = TTFT_S
    tpot_s: float | None = TPOT_S
    e2e_s: float | None = None
    ttft_alone: float = TTFT_ALONE  # and so many times what the prompt takes alone on hardware without losses
    tpot_alone: float = TPOT_ALONE  # at least so many times what a token takes alone there
    given: bool = False

    @classmethod
    def of(cls, limits: Mapping[str, float] | None) -> Objectives:
        """From what a user gave, by ttft, tpot, e2e; nothing: the usual ones.

        >>> Objectives.of({"ttft": 0.5})
        Objectives(ttft_s=0.5, tpot_s=None, e2e_s=None, ttft_alone=0.0, tpot_alone=0.0, given=True)
        """
        if not limits:
            return cls()
        return cls(limits.get("ttft"), limits.get("tpot"), limits.get("e2e"), 0.0, 0.0, True)

    def limits(self, ideal: Costs, prompt: I64) -> tuple[NDArray[np.float64], float]:
        """Seconds of TTFT by request, and of TPOT, where there are such limits."""
        n = prompt.astype(np.float64)
        alone = (
            np.maximum(ideal.weight_s + ideal.expert_s, ideal.token_s * n) + ideal.pair_s * n * (n + 1) / 2
        )
        token = ideal.step(decoding=1, read_tokens=float(n.mean()) if len(n) else 0.0)
        return (self.ttft_s or 0.0) + self.ttft_alone * alone, max(
            self.tpot_s or 0.0, self.tpot_alone * token
        )

    def met(self, served: Served, which: NDArray[np.bool_], ideal: Costs) -> NDArray[np.bool_]:
        """Of those requests, which kept to all; a failed one to none."""
        good = served.ok[which].copy()
        first, end, sent = (part[which] / 1e9 for part in (served.first, served.end, served.sent))
        ttft_s, tpot_s = self.limits(ideal, served.prompt[which])
        if self.ttft_s is not None:
            good &= first - sent <= ttft_s
        if self.e2e_s is not None:
            good &= end - sent <= self.e2e_s
        if self.tpot_s is not None:
            tokens = served.output[which]
            good &= (tokens < 2) | (end - first <= tpot_s * np.maximum(tokens - 1, 1))
        return good

    def told(self) -> dict[str, Any]:
        """`simulation.slo`."""
        return {
            "ttft_s": self.ttft_s, "ttft_times_alone": self.ttft_alone, "tpot_s": self.tpot_s, "tpot_times_alone": self.tpot_alone,
            "e2e_s": self.e2e_s, "quantile": QUANTILE, "given": self.given, "words": self.words,
        }  # fmt: skip

    @property
    def words(self) -> str:
        """For people.

        >>> Objectives.of({"ttft": 0.5, "tpot": 0.05}).words
        'TTFT 0.5 s, TPOT 50 ms'
        """
        parts = []
        if self.ttft_s is not None:
            more = f" and {self.ttft_alone:g} times what the prompt takes alone at the hardware's peak"
            parts.append(f"TTFT {self.ttft_s:g} s" + (more if self.ttft_alone else ""))
        if self.tpot_s is not None:
            parts.append(f"TPOT {self.tpot_s * 1000:g} ms")
        if self.e2e_s is not None:
            parts.append(f"E2E {self.e2e_s:g} s")
        return ", ".join(parts)


class Pool(NamedTuple):
    """All requests of one model, in the order of arrival."""

    model: str
    traffic: Traffic  # with the times of the log
    sessions: I64  # a number for each session, -1 for none
    tenants: NDArray[Any]  # names, "" for none
    hours: I64 | None = None  # of the day, UTC, when each came; None: not known


class Stretch(NamedTuple):
    """Traffic of one model, with when it is sent; the first requests only warm the caches."""

    pool: Pool
    load: Load
    warm: int

    @classmethod
    def busiest(cls, pool: Pool, measured: int = MEASURED, warm: int = WARM) -> Stretch:
        """The `measured` requests that came within the shortest time, and up to `warm` before them."""
        n = pool.traffic.requests
        at = pool.traffic.arrival_us
        fit = int(TOKENS / max(1.0, float(pool.traffic.prompt.mean())))
        whole = measured + warm
        measured, warm = (max(min(FEWEST, most), min(most, fit * most // whole)) for most in (measured, warm))
        begin = 0
        if n > measured:
            begin = int(np.argmin(at[measured - 1 :] - at[: n - measured + 1]))
        first = max(0, begin - warm)
        which = np.arange(first, min(n, begin + measured))
        part = Pool(pool.model, pool.traffic.subset(which), pool.sessions[which], pool.tenants[which])
        return cls(part, sessions_load(part.traffic, part.sessions), begin - first)

    @classmethod
    def whole(cls, pool: Pool) -> Stretch:
        """All of it, from empty caches."""
        return cls(pool, sessions_load(pool.traffic, pool.sessions), 0)

    @property
    def traffic(self) -> Traffic:
        """What is asked for."""
        return self.pool.traffic

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Who is in the figures."""
        return np.arange(self.traffic.requests) >= self.warm

    def of(self, which: NDArray[np.bool_]) -> Stretch:
        """Only these requests; a turn whose turn before is not among them is sent at its time."""
        at = np.flatnonzero(which)
        number = np.full(len(which), -1, np.int64)
        number[at] = np.arange(len(at))
        parent = self.load.parent[at]
        kept = np.where(parent >= 0, number[parent], -1)
        pool = Pool(self.pool.model, self.traffic.subset(at), self.pool.sessions[at], self.pool.tenants[at])
        return Stretch(
            pool, Load(self.load.scheduled[at], self.load.think[at], kept), int(which[: self.warm].sum())
        )

    def unique(self, which: NDArray[np.bool_]) -> Stretch:
        """The same, but that none of these prompts begins as any other."""
        of, own = self.traffic, np.flatnonzero(which)
        node = of.node.copy()
        node[own] = len(of.parent) + np.arange(len(own))
        made = of._replace(
            parent=np.concatenate([of.parent, np.full(len(own), -1, np.int32)]),
            begin=np.concatenate([of.begin, np.zeros(len(own), np.int64)]),
            end=np.concatenate([of.end, of.total[own]]),
            node=node,
        )
        return self._replace(pool=self.pool._replace(traffic=made))

    @property
    def shared_tokens(self) -> int:
        """Of the measured prompts, what a cache that forgets nothing has."""
        return int(self.traffic.shared()[1][self.measured].sum())

    @property
    def prompt_tokens(self) -> int:
        """Of the measured requests."""
        return int(self.traffic.prompt[self.measured].sum())

    @property
    def span_s(self) -> float:
        """From the first measured arrival to the last."""
        return float(self.load.scheduled[-1] - self.load.scheduled[self.warm]) / 1e9

    @property
    def in_flight(self) -> float:
        """Requests at once in the log, in the mean."""
        took = (self.traffic.end_us - self.traffic.arrival_us)[self.measured].sum()
        at = self.traffic.arrival_us[self.measured]
        return float(took) / max(1.0, float(self.traffic.end_us[self.measured].max() - at[0]))


def coarse(at: I64) -> bool:
    """Whether a clock is so coarse that most requests share their time with another.

    >>> coarse(np.array([0, 0, 0, 3000, 3000])), coarse(np.array([0, 1, 2, 2]))
    (True, False)
    """
    _, counts = np.unique(at, return_counts=True)
    return bool(counts[counts > 1].sum() > len(at) / 2)


def spread_ties(at: I64) -> I64:
    """Those of one time evenly until the next one.

    >>> spread_ties(np.array([0, 0, 0, 3000, 3000])).tolist()
    [0, 1000, 2000, 3000, 4500]
    """
    times, first, counts = np.unique(at, return_index=True, return_counts=True)
    gaps = np.diff(times, append=times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 0))
    return at + ((np.arange(len(at)) - np.repeat(first, counts)) * np.repeat(gaps / counts, counts)).astype(
        np.int64
    )


def sessions_load(traffic: Traffic, sessions: I64) -> Load:
    """At their recorded times, and no turn before the one before it has ended and its recorded time to think is over."""
    n = traffic.requests
    start = traffic.arrival_us - (traffic.arrival_us[0] if n else 0)
    if coarse(start):
        start = spread_ties(start)
    parent = np.full(n, -1, np.int64)
    order = np.lexsort((np.arange(n), sessions))
    before, after = order[:-1], order[1:]
    same = (sessions[before] == sessions[after]) & (sessions[after] >= 0)
    follows = same & (traffic.end_us[before] <= traffic.arrival_us[after])
    parent[after[follows]] = before[follows]
    think = np.where(parent >= 0, traffic.arrival_us - traffic.end_us[parent], 0)
    return Load(start * 1000, np.maximum(think, 0) * 1000, parent)


class Found(NamedTuple):
    """How much of the traffic one engine carries."""

    max_speed: float | None
    shares: dict[float, float]  # of requests that met the objectives, by speed
    capped: bool = False  # faster was not tried: at least so much


def capacity(share_at: Callable[[float], float], quantile: float = QUANTILE, most: int = FASTEST) -> Found:
    """The highest speed at which `quantile` of requests meet the objectives: doubled (`most` times) or halved from 1, then between.

    >>> round(capacity(lambda speed: 1.0 if speed <= 3 else 0.5).max_speed, 3)
    2.954
    """
    shares: dict[float, float] = {}

    def holds(exponent: float) -> bool:
        speed = 2.0**exponent
        if speed not in shares:
            shares[speed] = share_at(speed)
        return shares[speed] >= quantile

    step = 1 if holds(0) else -1
    low = 0.0
    end = most if step > 0 else FASTEST
    while abs(low) < end and holds(low + step) == (step > 0):
        low += step
        if low == SLOW and not holds(-FASTEST):
            return Found(None, shares)  # it does not hold for a request alone
    if abs(low) >= end:
        return Found(2.0**low, shares, True) if step > 0 else Found(None, shares)
    good, bad = (low, low + 1) if step > 0 else (low - 1, low)
    for _ in range(FINE):
        middle = (good + bad) / 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return Found(2.0**good, shares)


class Study(NamedTuple):
    """Stretches, one a model, on hosts that are the same for all."""

    host: Host
    stretches: list[Stretch]
    objectives: Objectives
    context_tokens: int

    @property
    def ideal(self) -> Costs:
        """The hardware without losses."""
        return Costs.of(
            self.host.card.ideal(),
            self.host.shape,
            self.host.gpus,
            Factors(),
            context_tokens=self.context_tokens,
        )

    def run(self, engine: str, stretch: Stretch, speed: float = 1.0) -> Served:
        """One model's traffic through one engine."""
        return serve(
            engine, stretch.traffic, stretch.load.faster(speed), self.host.scheduler(engine), self.host.costs(engine, self.context_tokens),
            self.host.capacity_tokens, token_bytes=self.host.token_bytes,
        )  # fmt: skip

    def share(self, engine: str, stretch: Stretch, speed: float) -> float:
        """Of its measured requests that meet the objectives at that speed."""
        served = self.run(engine, stretch, speed)
        return float(self.objectives.met(served, stretch.measured, self.ideal).mean())

    def doublings(self, stretch: Stretch) -> int:
        """How often the speed may double until the stretch is so short that it is a burst, not a rate."""
        limits = (self.objectives.ttft_s or 0.0, self.objectives.e2e_s or 0.0)
        shortest_s = max(SHORTEST_S, *(SHORTEST_LIMITS * limit for limit in limits))
        return max(0, min(FASTEST, int(math.log2(max(1.0, stretch.span_s / shortest_s)))))

    def capacity(self, engine: str, stretches: Sequence[Stretch]) -> Found:
        """How much faster all of them may come: the slowest model decides."""
        found = [
            capacity(functools.partial(self.share, engine, one), most=self.doublings(one))
            for one in stretches
        ]
        speeds = [one.max_speed for one in found]
        shares = {
            speed: min(one.shares[speed] for one in found)
            for speed in found[0].shares
            if all(speed in one.shares for one in found)
        }
        known = [s for s in speeds if s is not None]
        if len(known) < len(speeds):
            return Found(None, shares)
        slowest = min(known)
        return Found(slowest, shares, all(one.capped for one in found if one.max_speed == slowest))

    def engine_part(self, engine: str) -> tuple[dict[str, Any], Found]:
        """`simulation.engines[NAME]`."""
        served = [(self.run(engine, one), one.measured) for one in self.stretches]
        found = self.capacity(engine, self.stretches)
        windows = [_window_s(one, which) for one, which in served]
        ok = [one.ok & which for one, which in served]
        goods = [self.objectives.met(one, which, self.ideal) for one, which in served]

        def a_second(counts: Sequence[float]) -> float | None:
            """Of all models together, each over its own time."""
            return sum(n / w for n, w in zip(counts, windows, strict=True)) if all(windows) else None

        prompt = sum(int(one.prompt[good].sum()) for (one, _), good in zip(served, ok, strict=True))
        hits = sum(int(one.hit_tokens[good].sum()) for (one, _), good in zip(served, ok, strict=True))
        met = np.concatenate(goods)
        ttft, tpot, e2e = (
            np.concatenate([_of(one, name, which) for one, which in served])
            for name in ("ttft_s", "tpot_s", "e2e_s")
        )
        on = self.host.card.on(engine)
        rate = a_second([len(good) for good in goods])
        outputs = a_second([int(one.output[good].sum()) for (one, _), good in zip(served, ok, strict=True)])
        tokens = a_second(
            [int((one.output + one.prompt)[good].sum()) for (one, _), good in zip(served, ok, strict=True)]
        )
        usd = None
        if self.host.usd_per_hour is not None and found.max_speed is not None and tokens:
            usd = self.host.usd_per_hour * len(self.stretches) / 3600 / (tokens * found.max_speed) * 1e6
        return {
            "label": cache_of(engine).LABEL, "requests": len(met), "refused": int(sum((~one.ok & which).sum() for one, which in served)),
            "preemptions": sum(one.preemptions for one, _ in served), "hit_tokens": hits, "hit_rate": hits / prompt if prompt else None,
            "requests_per_s": rate, "output_tokens_per_s": outputs, "total_tokens_per_s": tokens,
            "busy": float(np.mean([one.busy_s / max(one.window_s, 1e-9) for one, _ in served])),
            "in_flight_mean": a_second([float(_of(one, "e2e_s", which).sum()) for one, which in served]),
            "ttft": spread(ttft), "tpot": spread(tpot), "e2e": spread(e2e), "slo_share": float(met.mean()),
            "goodput_per_s": a_second([int(good.sum()) for good in goods]), "max_speed": found.max_speed, "max_speed_capped": found.capped,
            "max_rate_per_s": None if found.max_speed is None or rate is None else rate * found.max_speed,
            "replicas": None if found.max_speed is None else math.ceil(1 / found.max_speed - 1e-9) or 1,
            "usd_per_million_tokens": usd, "cold_start_s": on.cold_start_s, "source": on.source,
        }, found  # fmt: skip


def _window_s(served: Served, which: NDArray[np.bool_]) -> float:
    return float(served.end[which].max() - served.sent[which].min()) / 1e9 if which.any() else 0.0


def _of(served: Served, name: str, which: NDArray[np.bool_]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = getattr(served, name)
    return values[which[served.ok]]


class Part(NamedTuple):
    """A part of the traffic that could be served apart."""

    by: str  # model, tenant, prefix, hour
    value: str
    share: float  # of the input tokens of the whole trace
    stretch: Stretch


def study(
    pools: Sequence[Pool],
    host: Host,
    objectives: Objectives,
    engines: Sequence[str] | None = None,
    *,
    prefixes_known: bool = True,
    how: str = "",
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """`profile.simulation`; None where there is nothing to run.

    prefixes_known  whether the trace says what prompts share; if not, every prompt is computed whole, and rates of hits are null
    how             how times are known, in words
    """
    some = sorted(
        (pool for pool in pools if pool.traffic.requests), key=lambda pool: -int(pool.traffic.total.sum())
    )
    if not some:
        return None
    chosen = some[:MODELS]
    stretches = [Stretch.busiest(pool, MEASURED // len(chosen), WARM // len(chosen)) for pool in chosen]
    context = int(np.concatenate([one.traffic.total for one in stretches]).mean())
    whole = Study(host, stretches, objectives, context)
    names = tuple(engines or host.engines)
    parts = _parts(stretches, pools)
    shared: dict[str, list[Stretch]] = {}
    if prefixes_known:
        shared = {
            "none": [one.unique(np.ones(one.traffic.requests, np.bool_)) for one in stretches],
            "half": [one.unique(_half(one)) for one in stretches],
        }
    groups = [*shared.values(), *([part.stretch] for part in parts)]
    jobs: list[Callable[[], Any]] = [functools.partial(whole.engine_part, name) for name in names]
    jobs += [functools.partial(whole.capacity, name, group) for group in groups for name in names]
    results: list[Any] = []
    with ThreadPoolExecutor(2) as threads:  # kernels hold no interpreter lock
        for done, result in enumerate(threads.map(lambda job: job(), jobs), 1):
            results.append(result)
            if progress is not None:
                progress("virtual engines", done, len(jobs))
    main = dict(zip(names, results, strict=False))
    rest = iter(results[len(names) :])
    found = [{name: next(rest).max_speed for name in names} for _ in groups]
    apart = dict(zip(shared, found, strict=False))
    requests = sum(int(one.measured.sum()) for one in stretches)
    of_requests = sum(pool.traffic.requests for pool in pools)
    return {
        "machine": host.told(),
        "slo": objectives.told(),
        "requests": requests,
        "of_requests": of_requests,
        "window": _window(stretches, requests, of_requests, len(some)),
        "engines": {name: part if prefixes_known else {**part, "hit_rate": None, "hit_tokens": None} for name, (part, _) in main.items()},
        "unique": {name: {"max_speed": speed} for name, speed in apart.get("none", {}).items()},
        "sweeps": {
            "sharing": [
                {"hit_rate": _ceiling(group), "engines": speeds}
                for group, speeds in (
                    (shared.get("none"), apart.get("none")), (shared.get("half"), apart.get("half")),
                    (stretches if shared else None, {name: part["max_speed"] for name, (part, _) in main.items()}),
                )
                if group is not None
            ],
            "users": _users({name: found for name, (_, found) in main.items()}, sum(one.in_flight for one in stretches)),
        },
        "parts": [
            {
                "by": part.by, "value": part.value, "requests": int(part.stretch.measured.sum()), "share": part.share,
                "hit_rate": _ceiling([part.stretch]) if prefixes_known else None, "engines": speeds,
            }
            for part, speeds in zip(parts, found[len(shared) :], strict=True)
        ],
        "assumptions": [
            f"{host.label}, {host.shape.precision} weights, {host.capacity_tokens:,} tokens of KV cache"
            + ("" if host.given else ": assumed, nobody said what it runs on"),
            *([how] if how else []),
            *(["the log's clock is coarse: requests of one time are spread evenly until the next"] if any(coarse(one.traffic.arrival_us) for one in stretches) else []),
            *([] if prefixes_known else ["the trace does not say what prompts share: every prompt is computed whole"]),
            *ASSUMPTIONS,
        ],
        "calibrated": sorted(host.fitted) or None,
    }  # fmt: skip


def _parts(stretches: Sequence[Stretch], pools: Sequence[Pool]) -> list[Part]:
    """Models, where there are several; tenants, opening prefixes and hours of the day of the largest one, where there are several."""
    everything = max(1, sum(int(pool.traffic.prompt.sum()) for pool in pools))
    by_model = {pool.model: pool for pool in pools}
    first = stretches[0]
    whole = by_model[first.pool.model]

    def share(pool: Pool, which: Any = slice(None)) -> float:
        return int(pool.traffic.prompt[which].sum()) / everything

    found: list[Part] = []
    if len(stretches) > 1:
        found += [
            Part("model", one.pool.model, share(by_model[one.pool.model]), one)
            for one in stretches
            if one.measured.sum() >= FEW
        ]
    tenants = _largest(first.pool.tenants, first.measured)
    found += [
        Part("tenant", v, share(whole, whole.tenants == v), first.of(first.pool.tenants == v))
        for v in tenants
    ]
    # of a prefix only the stretch is known: its share there, of the model's share
    names = _openings(first)
    for value in _largest(names, first.measured):
        which = names == value
        mine = (
            share(whole)
            * int(first.traffic.prompt[which & first.measured].sum())
            / max(1, first.prompt_tokens)
        )
        found.append(Part("prefix", value, mine, first.of(which)))
    if whole.hours is not None and whole.traffic.arrival_us[-1] - whole.traffic.arrival_us[0] >= HOURS_US:
        for value in _largest(np.array([f"{h:02d}:00" if h >= 0 else "" for h in range(-1, 24)])[whole.hours + 1], np.ones(len(whole.hours), np.bool_)):  # fmt: skip
            which = whole.hours == int(value[:2])
            at = np.flatnonzero(which)
            pool = Pool(whole.model, whole.traffic.subset(at), whole.sessions[at], whole.tenants[at])
            found.append(
                Part(
                    "hour",
                    value,
                    share(whole, which),
                    Stretch.busiest(pool, MEASURED // PARTS, WARM // PARTS),
                )
            )
    return found


def _largest(values: NDArray[Any], which: NDArray[np.bool_]) -> list[str]:
    """The names that most of these requests have, if there are at least two of some size."""
    names, counts = np.unique(values[which], return_counts=True)
    by_size = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    largest = [name for name, n in by_size[: PARTS + 1] if n >= FEW and name][:PARTS]
    return largest if len(largest) > 1 else []


def _openings(stretch: Stretch) -> NDArray[Any]:
    """For each request a name of how its prompt opens, below what nearly all have in common; "" where no other opens like that.

    Numbered by size: opening 1 is what most begin with.
    """
    of = stretch.traffic
    paths: list[list[int]] = []
    for node, prompt in zip(of.node.tolist(), of.prompt.tolist(), strict=True):
        path = []
        while node >= 0:
            if of.begin[node] < prompt:
                path.append(node)
            node = int(of.parent[node])
        paths.append(path[::-1])
    depth, alive = 0, list(range(len(paths)))
    while True:
        groups: dict[int, list[int]] = {}
        for r in alive:
            if len(paths[r]) > depth:
                groups.setdefault(paths[r][depth], []).append(r)
        most = max(groups.values(), key=len, default=[])
        if len(most) < NEARLY_ALL * len(paths):
            break
        depth, alive = depth + 1, most
    names = np.full(len(paths), "", dtype=object)
    known = [(node, who) for node, who in groups.items() if len(who) > 1 and of.end[node] >= OPENING]
    for n, (node, who) in enumerate(sorted(known, key=lambda group: (-len(group[1]), group[0])), 1):
        names[who] = f"opening {n}, {int(of.end[node]):,} tokens"
    return names.astype(str)


def _half(stretch: Stretch) -> NDArray[np.bool_]:
    """Every second session, or request that has none, by the order in which they come."""
    n = stretch.traffic.requests
    key = np.where(stretch.pool.sessions >= 0, stretch.pool.sessions, -1 - np.arange(n))
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    order: I64 = np.argsort(np.argsort(first))
    odd: NDArray[np.bool_] = order[which] % 2 == 1
    return odd


def _ceiling(stretches: Sequence[Stretch]) -> float:
    return sum(one.shared_tokens for one in stretches) / max(1, sum(one.prompt_tokens for one in stretches))


def _users(found: Mapping[str, Found], in_flight: float) -> list[dict[str, Any]]:
    """Share of requests that met the objectives by speed, for whole doublings that every engine was tried at or beyond."""
    speeds = sorted({speed for one in found.values() for speed in one.shares if math.log2(speed) % 1 == 0})
    return [
        {
            "speed": speed, "concurrency": in_flight * speed,
            "engines": {name: one.shares.get(speed) for name, one in found.items()},
        }
        for speed in speeds
    ]  # fmt: skip


def _window(stretches: Sequence[Stretch], requests: int, of_requests: int, models: int) -> str:
    hours = max(one.span_s for one in stretches) / 3600
    span = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    what = (
        "all requests" if requests == of_requests else f"the busiest {requests:,} of {of_requests:,} requests"
    )
    if models > len(stretches):
        what += f", of the {len(stretches)} models with most tokens"
    warm = sum(one.warm for one in stretches)
    return f"{what}, {span}" + (f", {warm:,} before them to warm the caches" if warm else "")
