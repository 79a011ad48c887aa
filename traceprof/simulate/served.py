"""Traffic through an engine in virtual time: which request was sent, got its first token and ended when.

The engine's cache is the model in `traceprof.caches`, its steps are made up by `traceprof.kernels.machine` as its scheduler
(`schedulers`) says, and each takes as long as `cost.Costs` says. Nothing is random: the same traffic gives the same times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.caches.traffic import Traffic
from traceprof.errors import TraceprofError
from traceprof.lab import simulator

if TYPE_CHECKING:
    from traceprof.kernels.state import Machine
    from traceprof.simulate.cost import Costs
    from traceprof.simulate.schedulers import Scheduler

I64: TypeAlias = NDArray[np.int64]
F64: TypeAlias = NDArray[np.float64]

STEPS_KEPT = 1 << 26  # decoding steps whose ends are kept: 512 MiB
PIECES_KEPT = 1 << 16  # times that a request goes on after it was preempted
SLOTS = {"llamacpp": "slots", "ollama": "num_parallel"}  # caches that know how many sequences run at once


class Load(NamedTuple):
    """When requests are to be sent; ns, one entry a request."""

    scheduled: I64
    think: I64  # from the end of the turn before
    parent: I64  # the turn before, -1: none
    places: int = 0  # of a closed loop; 0: at their times

    @classmethod
    def at(cls, arrival_us: I64, speed: float = 1.0) -> Load:
        """Each at its time, whatever becomes of the others."""
        n = len(arrival_us)
        return cls(
            (arrival_us * (1000 / speed)).astype(np.int64), np.zeros(n, np.int64), np.full(n, -1, np.int64)
        )

    @classmethod
    def closed(cls, requests: int, places: int) -> Load:
        """One after the other at so many places."""
        return cls.at(np.zeros(requests, np.int64))._replace(places=places)

    def faster(self, speed: float) -> Load:
        """So many times as fast, times to think included."""
        return self._replace(
            scheduled=(self.scheduled / speed).astype(np.int64), think=(self.think / speed).astype(np.int64)
        )


class Served(NamedTuple):
    """What became of the requests; ns since the start, one entry a request. Failed ones have no first token."""

    sent: I64  # as a client counts: from here on latencies go
    first: I64  # -1: never
    end: I64
    begun: I64  # admitted by the engine, -1: never
    output: I64  # tokens generated
    prompt: I64
    hit_tokens: I64  # of the prompt, served from the cache; -1: it failed
    preemptions: int
    waited: int
    evicted_tokens: int
    computed_tokens: int  # of prompts, again after a preemption included
    decode_steps: int
    busy_s: float  # the engine was computing
    machine: Machine

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Who got an answer."""
        return (self.hit_tokens >= 0) & (self.first >= 0)

    @property
    def ttft_s(self) -> F64:
        """Time to first token of those that got an answer."""
        return (self.first - self.sent)[self.ok] / 1e9

    @property
    def e2e_s(self) -> F64:
        """From the send to the end."""
        return (self.end - self.sent)[self.ok] / 1e9

    @property
    def tpot_s(self) -> F64:
        """Time per output token after the first; NaN for answers of one."""
        tokens = self.output[self.ok] - 1.0
        return np.where(tokens > 0, (self.end - self.first)[self.ok] / 1e9 / np.maximum(tokens, 1), np.nan)

    @property
    def window_s(self) -> float:
        """From the first send to the last end."""
        return float(self.end.max() - self.sent[self.sent >= 0].min()) / 1e9 if len(self.end) else 0.0

    def token_times(self) -> list[I64] | None:
        """When each token of each request was there; None where there were more steps than are kept."""
        m = self.machine
        from traceprof.kernels.machine import PIECES

        pieces = int(m.state[PIECES])
        if self.decode_steps >= len(m.steps) or pieces > len(m.pieces):
            return None
        found: list[list[I64]] = [[] for _ in range(len(self.first))]
        having = self.output.copy()
        for r, made, since, at in m.pieces[:pieces][::-1].tolist():
            more = int(having[r]) - made - 1
            found[r].append(np.concatenate([[at], m.steps[since + 1 : since + 1 + max(0, more)]]))
            having[r] = made
        return [np.concatenate(parts[::-1]) if parts else np.zeros(0, np.int64) for parts in found]


def serve(
    engine: str,
    traffic: Traffic,
    load: Load,
    scheduler: Scheduler,
    costs: Costs,
    capacity_tokens: int,
    *,
    token_bytes: float = 131_072.0,
    steps: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Served:
    """All of the traffic through one engine. `steps`: how many decoding steps' ends to keep (see `Served.token_times`).

    engine     as in traceprof.caches; options are those of its cache's model
    """
    from traceprof.kernels import state
    from traceprof.kernels.machine import BUSY_NS, COMPUTED, STEPS

    n = traffic.requests
    rules = np.zeros(state.RULES, np.int64)
    for rule, value in (
        (state.ON, 1), (state.MAX_SEQS, scheduler.max_seqs), (state.STEP_TOKENS, scheduler.step_tokens),
        (state.CHUNK_TOKENS, scheduler.chunk_tokens), (state.MIXED, scheduler.mixed), (state.PREFILL_SEQS, scheduler.prefill_seqs),
        (state.PLACES, load.places), (state.REQUEST_NS, round(costs.request_s * 1e9)),
    ):  # fmt: skip
        rules[rule] = value
    in_ns = np.array([*costs[:8], costs.overlap]) * 1e9
    in_ns[4], in_ns[8] = costs.expert_share, costs.overlap
    machine = state.machine(
        rules, in_ns, load.scheduled, load.think, load.parent, steps=min(steps, STEPS_KEPT), pieces=n + PIECES_KEPT if steps else 0
    )  # fmt: skip
    given = dict(options or {})
    if engine in SLOTS:
        given.setdefault(SLOTS[engine], scheduler.max_seqs)
    outcome = simulator(engine, token_bytes)(traffic._replace(machine=machine), capacity_tokens, **given)
    if n and not (machine.end >= 0).all():
        raise TraceprofError(
            f"{int((machine.end < 0).sum()):,} requests have no end in the simulation of {engine}"
        )
    return Served(
        machine.intended, np.where(outcome.hit_tokens >= 0, machine.first, -1), machine.end, machine.begun,
        np.where(outcome.hit_tokens >= 0, traffic.total - traffic.prompt, 0), traffic.prompt, outcome.hit_tokens, outcome.preempted, outcome.waited,
        outcome.evicted_tokens, int(machine.state[COMPUTED]), int(machine.state[STEPS]), float(machine.state[BUSY_NS]) / 1e9, machine,
    )  # fmt: skip


def closed_loop(
    engine: str,
    costs: Costs,
    scheduler: Scheduler,
    *,
    prompt_tokens: int,
    output_tokens: int,
    concurrency: int,
    requests: int,
    capacity_tokens: int,
    shared_tokens: int = 0,
) -> Served:
    """Equal requests, so many at once, one after the other: what most published figures are of. The first `shared_tokens` of all prompts are the same."""
    like = np.full(requests, -1 if not shared_tokens else 0, np.int64)
    like[:1] = -1
    shared = np.where(like >= 0, shared_tokens, 0)
    traffic = Traffic.of_shared(like, shared, np.full(requests, prompt_tokens, np.int64))
    traffic = traffic.answered(np.full(requests, output_tokens, np.int64))
    return serve(engine, traffic, Load.closed(requests, concurrency), scheduler, costs, capacity_tokens)
