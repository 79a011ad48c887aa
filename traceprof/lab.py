"""The cache lab: a trace's requests through every engine's prefix cache, at the size that a GPU's memory gives it.

Each model of the trace is served by an engine of its own. Requests enter when they arrived and hold their room until
they ended, so what runs side by side is pinned as it is in the engine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from traceprof.caches import ENGINES, engine, memory, providers, routing
from traceprof.caches.memory import Mark, Model
from traceprof.caches.traffic import Outcome, Traffic
from traceprof.errors import UsageError
from traceprof.load import concurrency as flight
from traceprof.workers import Progress

LARGE = (
    20_000_000  # input tokens, above which a profile runs fewer models, and those at one size of memory only
)
REPLICAS = (1, 2, 4, 8)
POLICIES = ("round_robin", "session_sticky", "prefix_hash", "cache_aware", "cache_aware_vllm")
USUAL_ENGINE = "vllm"  # whose cache the replicas have
SLOW = ("llamacpp", "ollama", "vllm_mlx")  # models that compare a prompt with every sequence they keep
MANY = 10_000  # requests, above which a profile leaves those out: some milliseconds each, at every size of memory


USUAL_CARD = "80 GB"


class Machine(NamedTuple):
    """What serves each model of the trace."""

    model: Model = memory.LLAMA_8B
    gpus: int = 1
    gpu_bytes: int = memory.parse_bytes(USUAL_CARD)
    memory_label: str = USUAL_CARD
    tokens: int | None = None  # of KV cache, where it is known better than from memory and weights
    given: bool = False  # whether somebody named it

    @classmethod
    def of(
        cls,
        gpu_memory: str | None = None,
        gpus: int = 1,
        model_config: str | None = None,
        kv_dtype: str = "auto",
        weights: str | None = None,
        capacity_tokens: int | None = None,
        label: str | None = None,
    ) -> Machine:
        """From what a user says; what is left out is Llama-3.1-8B on one 80 GB card. `label`: what that memory is called."""
        usual = cls()
        given = any((gpu_memory, gpus > 1, model_config, kv_dtype != "auto", weights, capacity_tokens))
        model = usual.model
        if model_config is not None:
            weight_bytes = memory.parse_bytes(weights) if weights else None
            model = memory.read_model(model_config, kv_dtype=kv_dtype, weight_bytes=weight_bytes)
        elif kv_dtype != "auto" or weights:
            raise UsageError(
                "--kv-dtype and --weights say how a model is kept", remedy="name it: --model-config"
            )
        size = gpu_memory or usual.memory_label
        machine = cls(model, gpus, memory.parse_bytes(size), label or size, capacity_tokens, given)
        if capacity_tokens is None and not machine.at(0).capacity_tokens:
            raise UsageError(
                f"{model.name} does not fit: its weights take {model.weight_bytes / 1e9:.1f} GB",
                remedy="more --gpus or --gpu-memory",
            )
        return machine

    def at(self, sequence_tokens: int) -> Mark:
        """Its capacity for sequences of that length (which matters for layers with a sliding window)."""
        token_bytes = self.model.token_bytes(self.gpus, sequence_tokens)
        if self.tokens is not None:
            return Mark(f"{self.tokens:,} tokens", self.tokens, token_bytes)
        size = memory.capacity_tokens(self.model, self.gpus, self.gpu_bytes, sequence_tokens=sequence_tokens)
        cards = f"{self.gpus} x " if self.gpus > 1 else ""
        return Mark(f"{self.model.name} on {cards}{self.memory_label}", size, token_bytes)

    def marks(self, sequence_tokens: int) -> list[Mark]:
        """Sizes of memory to compare: a few usual ones, or what the model that was named fits on."""
        named = self.model if self.model is not memory.LLAMA_8B else None
        return memory.marks(named, sequence_tokens=sequence_tokens)


class Timed(NamedTuple):
    """When the measured requests arrived, decoded and ended, and in words how that is known."""

    arrival_us: NDArray[np.int64]
    first_us: NDArray[np.int64]
    end_us: NDArray[np.int64]
    how: str


def timed(
    rows: pl.DataFrame, prompt: NDArray[np.int64], output: NDArray[np.int64], *, one_clock: bool
) -> Timed:
    """Times of requests from start_us, ttft_us and end_us (all nullable); what a log does not say is estimated.

    Where there is no common clock, or the order is not that of arrival, each request ends before the next one arrives.
    """
    start, end = rows["start_us"], rows["end_us"]
    known = start.drop_nulls()
    if not len(known) or not one_clock or not start.fill_null(known.max()).is_sorted():
        nothing = np.zeros(len(rows), np.int64)
        why = (
            "the log has no arrival times"
            if not len(known)
            else "the requests do not stand in the order of one clock"
        )
        return Timed(
            nothing, nothing, nothing, f"{why}: each request is taken to end before the next one arrives"
        )
    arrival = start.fill_null(known.max()).to_numpy().astype(np.int64)
    prefill = prompt / flight.PREFILL_TOKENS_PER_S
    decode = output * flight.TPOT_S
    guess = ((prefill + decode) * 1e6).astype(np.int64)
    took = np.maximum(np.where(end.is_null(), guess, end.fill_null(0).to_numpy() - arrival), 0)
    share = prefill / np.maximum(prefill + decode, 1e-9)
    ttft = rows["ttft_us"].fill_null(-1).to_numpy()
    first = np.minimum(np.where(ttft >= 0, ttft, (took * share).astype(np.int64)), took)
    no_end = end.null_count()
    said = ["requests enter when they arrived and hold their room until they ended"]
    if no_end:
        said.append(f"{no_end:,} of {len(rows):,} requests have no end. {flight.ASSUMED}")
    if untold := int((ttft < 0).sum()):
        said.append(
            f"{untold:,} have no time of the first token, which divides their duration as that assumption does"
            if no_end
            else f"{untold:,} have no time of the first token: prefill is taken to go at {flight.PREFILL_TOKENS_PER_S:,.0f} "
            f"tokens a second against {flight.TPOT_S * 1000:.0f} ms an output token"
        )
    return Timed(arrival, arrival + first, arrival + took, "; ".join(said))


class Lab(NamedTuple):
    """Traffic apart by the model that serves it."""

    pools: list[Traffic]
    sessions: list[NDArray[np.int64]]  # of each pool's requests: a number for each session, -1 for none
    input_tokens: int
    sequence_tokens: int  # mean of prompt + output
    how: str
    unit: int = 1  # tokens that the trace tells apart

    @classmethod
    def of(
        cls,
        traffic: Traffic,
        served_by: NDArray[np.int64],
        how: str,
        sessions: NDArray[np.int64] | None = None,
        unit: int = 1,
    ) -> Lab:
        """served_by [request]: a number for each model; -1 for a request that no model saw."""
        if sessions is None:
            sessions = np.full(traffic.requests, -1, np.int64)
        seen = served_by >= 0
        models = [served_by == one for one in np.unique(served_by[seen])]
        mean = int(traffic.total[seen].mean()) if seen.any() else 0
        return cls(
            [traffic.subset(of_model) for of_model in models],
            [sessions[of_model] for of_model in models],
            int(traffic.prompt[seen].sum()),
            mean,
            how,
            unit,
        )

    @property
    def slow_too(self) -> bool:
        """Whether the slow models are fast enough for it."""
        return self.input_tokens <= LARGE and sum(pool.requests for pool in self.pools) <= MANY

    @property
    def timed(self) -> bool:
        """Whether it is known when requests came."""
        return any(pool.requests and pool.arrival_us[-1] > pool.arrival_us[0] for pool in self.pools)

    def run(self, name: str, capacity_tokens: int, token_bytes: float) -> Result:
        """One engine, every model on an instance of its own."""
        simulate = simulator(name, token_bytes)
        outcomes = [simulate(pool, capacity_tokens) for pool in self.pools]
        return Result.of(name, capacity_tokens, outcomes, self.input_tokens)


def simulator(name: str, token_bytes: float) -> Callable[[Traffic, int], Outcome]:
    """An engine's cache by its name; token_bytes is what of its options hangs on the size of a token's KV."""
    model = engine(name)
    sized: Callable[[float], dict[str, Any]] = getattr(model, "sized", lambda token_bytes: {})
    simulate: Callable[[Traffic, int], Outcome] = functools.partial(model.simulate, **sized(token_bytes))
    return simulate


class Result(NamedTuple):
    """What one engine's cache did with all of the traffic."""

    name: str
    capacity_tokens: int
    hit_tokens: int
    hit_rate: float | None
    evicted_tokens: int
    waited: int
    preempted: int
    refused: int

    @classmethod
    def of(cls, name: str, capacity_tokens: int, outcomes: Sequence[Outcome], input_tokens: int) -> Result:
        """Outcomes of all models together."""
        hits = sum(int(np.maximum(o.hit_tokens, 0).sum()) for o in outcomes)
        return cls(
            name,
            capacity_tokens,
            hits,
            hits / input_tokens if input_tokens else None,
            sum(int(o.evicted_tokens) for o in outcomes),
            sum(int(o.waited) for o in outcomes),
            sum(int(o.preempted) for o in outcomes),
            sum(int((o.hit_tokens < 0).sum()) for o in outcomes),
        )

    @property
    def unbounded(self) -> bool:
        """Whether more memory would change nothing."""
        return self.evicted_tokens == self.waited == self.preempted == self.refused == 0


def machine_part(
    lab: Lab,
    machine: Machine,
    names: Sequence[str] = ENGINES,
    *,
    whole: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`machine` and `engines` of `profile.cache`; `whole`: all models at all sizes of memory, however large the trace."""
    here = machine.at(lab.sequence_tokens)
    if not whole and not lab.slow_too:
        names = [name for name in names if name not in SLOW]
    marks = machine.marks(lab.sequence_tokens) if whole or lab.input_tokens <= LARGE else []
    return {
        "machine": {**here._asdict(), "given": machine.given},
        "engines": engines_part(lab, here, marks, names, progress),
    }


def engines_part(
    lab: Lab,
    machine: Mark,
    marks: Sequence[Mark],
    names: Sequence[str] = ENGINES,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """`profile.cache.engines`: every engine at the machine's capacity, and by size of memory.

    A size of memory at which a smaller one already threw nothing out is not run again.
    """

    def one(name: str) -> dict[str, Any]:
        model = engine(name)
        main = lab.run(name, machine.capacity_tokens, machine.token_bytes)
        found = {machine.capacity_tokens: main}
        for mark in sorted(marks, key=lambda m: m.capacity_tokens):
            size = mark.capacity_tokens
            smaller = [r for c, r in found.items() if c <= size and r.unbounded]
            if size not in found:
                found[size] = smaller[0] if smaller else lab.run(name, size, mark.token_bytes)
        return {
            "label": model.LABEL,
            "hit_tokens": main.hit_tokens,
            "hit_rate": main.hit_rate,
            "capacity_tokens": None if name == "infinite" else machine.capacity_tokens,
            "block_size": model.BLOCK_SIZE,
            "evicted_tokens": main.evicted_tokens,
            "waited_requests": main.waited,
            "preemptions": main.preempted,
            "refused_requests": main.refused,
            "by_memory": [
                {
                    "label": mark.label,
                    "capacity_tokens": mark.capacity_tokens,
                    "hit_rate": found[mark.capacity_tokens].hit_rate,
                }
                for mark in marks
            ],
            "assumptions": [*model.ASSUMPTIONS, lab.how],
        }

    parts = {}
    with ThreadPoolExecutor(2) as threads:  # kernels hold no interpreter lock
        for done, (name, part) in enumerate(zip(names, threads.map(one, names), strict=True), 1):
            parts[name] = part
            if progress is not None:
                progress("engines' caches", done, len(names))
    return parts


def replicas_part(
    lab: Lab,
    machine: Machine,
    name: str = USUAL_ENGINE,
    replicas: Sequence[int] = REPLICAS,
    policies: Sequence[str] = POLICIES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`profile.cache.replicas`: an engine's cache on several replicas, each with the machine's capacity, behind a router."""
    here = machine.at(lab.sequence_tokens)
    if all((of < 0).all() for of in lab.sessions):
        policies = [policy for policy in policies if policy != "session_sticky"]
    if not any((pool.end_us > pool.arrival_us).any() for pool in lab.pools):
        policies = [policy for policy in policies if policy not in routing.TIMED]
    return {
        "engine": name,
        "capacity_tokens_each": here.capacity_tokens,
        "rows": routing.replica_study(
            lab.pools,
            simulator(name, here.token_bytes),
            here.capacity_tokens,
            replicas,
            policies,
            sessions=lab.sessions,
            progress=progress,
        ),
        "assumptions": [*routing.ASSUMPTIONS, lab.how],
    }


def providers_part(lab: Lab) -> dict[str, Any] | None:
    """`profile.cache.providers`: what API providers' prompt caches would hold of this traffic, and what that costs.

    None where it is not known when requests came: entries live for a time.
    """
    if not lab.timed:
        return None
    tail = max(providers.TAIL_TOKENS, lab.unit)
    return {
        "as_of": providers.as_of().isoformat(),
        "offers": providers.compare(lab.pools, lab.sessions, tail_tokens=tail),
        "assumptions": [*providers.ASSUMPTIONS, lab.how],
    }
