"""Two engines on one workload, metric by metric; and one engine against itself, which is the control.

Metrics:

    ttft, tpot, e2e      geometric mean of b's latency over a's, of requests that both answered; less is better
    ttft_p99, tpot_p99   b's p99 over a's, run by run, of the same requests; of workloads that have enough of them
    slo                  share of requests that meet the SLO, b's less a's; more is better
    failed               share of requests that did not end well, b's less a's; less is better
    throughput           output tokens a second, b's over a's; more is better. Only of a closed loop: else arrivals decide it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import exp, log, nan
from typing import Any, NamedTuple

import numpy as np

from traceprof.compare import statistics
from traceprof.compare.runs import BOOL, F64, LATENCIES, Block, Compared
from traceprof.compare.statistics import I64, Draws, Estimate

TAILS = ("ttft", "tpot")
TAIL_REQUESTS = 500  # from which a run's p99 has five requests above it
FAILED_MARGIN = 0.01  # of requests: more failures than that are a difference
SAME, TOO_LITTLE = "no practical difference", "not enough data"
ONE_BLOCK = (
    "one block of each: how much two runs of one engine differ is not known; replay with --repeats 3 or more"
)
NO_BLOCK = "they have no valid block in common"
FEW_SESSIONS = "there are not two sessions that both answered, or one holds nearly all requests"


class Metric(NamedTuple):
    """How a figure is compared."""

    name: str
    ratio: bool  # of logarithms; else a difference of shares
    more_is_better: bool
    of: str = ""  # latency that it is of
    quantile: float | None = None  # of a run; else the mean


METRICS = {
    one.name: one
    for one in (
        *(Metric(name, True, False, name) for name in LATENCIES),
        *(Metric(f"{name}_p99", True, False, name, 0.99) for name in TAILS),
        Metric("slo", False, True), Metric("failed", False, False), Metric("throughput", True, True),
    )
}  # fmt: skip


class Rules(NamedTuple):
    """What everything is judged by."""

    margin: float
    level: float
    objectives: Mapping[str, float]  # seconds by latency: the SLO of one request
    draws: Draws

    def margin_of(self, metric: Metric) -> float:
        """In the metric's own scale."""
        if metric.name == "failed":
            return min(self.margin, FAILED_MARGIN)
        return statistics.log_margin(self.margin) if metric.ratio else self.margin


class Groups(NamedTuple):
    """What the requests of a workload belong to."""

    sessions: I64  # number of the session; -1: of a request that no run has
    blocks: I64  # of sessions that are neighbours in time

    @classmethod
    def of(cls, compared: Compared) -> Groups:
        """As the first run that is valid tells."""
        sessions, starts = compared.sessions
        return cls(sessions, statistics.session_blocks(sessions, starts))


class Pair(NamedTuple):
    """Two sides with their blocks, those of one repeat beside each other."""

    a: str
    b: str
    blocks_a: list[Block]
    blocks_b: list[Block]
    same_again: bool = False  # another run would be the same (a simulation), or is not asked about
    drifts: bool = True  # both ran while time went by


def matched(compared: Compared) -> Iterator[Pair]:
    """All pairs of engines that are ranked."""
    simulated = compared.simulated
    for k, one in enumerate(compared.ranked):
        for other in compared.ranked[k + 1 :]:
            sides = one.at(compared.speed), other.at(compared.speed)
            if one.sweep is None and other.sweep is None:
                common = {x.repeat for x in sides[0]} & {x.repeat for x in sides[1]}
                sides = tuple([x for x in side if x.repeat in common] for side in sides)  # type: ignore[assignment]
            most = min(map(len, sides))
            yield Pair(one.name, other.name, sides[0][:most], sides[1][:most], simulated, not simulated)


def foretold(compared: Compared) -> Iterator[Pair]:
    """Each live engine beside the same engine simulated, whose one run stands against each of the live ones."""
    for live in (one for one in compared.contenders if not one.simulated):
        for one in compared.contenders:
            mine, its = live.at(compared.speed), one.at(compared.speed)[:1]
            if one.simulated and one.engine == live.engine and mine and its:
                yield Pair(live.name, one.name, mine, its * len(mine), drifts=False)


def values(metric: Metric, block: Block, rules: Rules) -> F64:
    """One value a request in the scale that is compared; NaN where there is none. Of throughput there is one in all."""
    if metric.name == "slo":
        return block.seen.meets(rules.objectives)
    if metric.name == "failed":
        return np.where(block.seen.asked, 1.0 - block.seen.ok, np.nan)
    if metric.name == "throughput":
        rate = (block.told.get("summary") or {}).get("output_tokens_per_s")
        return np.array([log(rate) if rate else nan])
    of = block.seen.latencies[metric.of]
    return np.log(of, out=np.full(len(of), np.nan), where=of > 0)


def metrics_of(compared: Compared, rules: Rules) -> list[Metric]:
    """Those that this workload can be compared in."""
    names = [*LATENCIES]
    if compared.rows >= TAIL_REQUESTS:
        names += [f"{name}_p99" for name in TAILS]
    if rules.objectives:
        names.append("slo")
    if compared.mode == "closed":
        names.append("throughput")
    blocks = [block for one in compared.contenders for block in one.at(compared.speed)]
    if any((block.seen.asked & ~block.seen.ok).any() for block in blocks):
        names.append("failed")
    return [METRICS[name] for name in names]


class Differences(NamedTuple):
    """A pair in one metric."""

    metric: Metric
    pair: Pair
    a: F64  # a row a block; one value a request in the scale that is compared
    b: F64

    @classmethod
    def of(cls, metric: Metric, pair: Pair, rules: Rules) -> Differences:
        """From what its runs saw."""
        a, b = (
            np.array([values(metric, block, rules) for block in side])
            for side in (pair.blocks_a, pair.blocks_b)
        )
        return cls(metric, pair, a, b)

    def among(self, some: BOOL) -> Differences:
        """Of some requests only."""
        return self._replace(b=np.where(some, self.b, np.nan))

    @property
    def matrix(self) -> F64:
        """b less a; NaN where one of them has no value."""
        return self.b - self.a

    @property
    def drift(self) -> float:
        """What a steady drift of the machine puts into the difference, because one engine's runs were later than the other's on average."""
        sides = (self.pair.blocks_a, self.a), (self.pair.blocks_b, self.b)
        at = [[block.number for block in blocks] for blocks, _ in sides]
        every = ~np.isnan(self.matrix).any(0)
        later = float(np.mean(at[1]) - np.mean(at[0])) if self.pair.drifts else 0.0
        if not later or not every.any():
            return 0.0
        q = self.metric.quantile
        levels = [
            of[:, every].mean(1) if q is None else np.quantile(of[:, every], q, axis=1) for _, of in sides
        ]
        return later * statistics.drift(at, [level.tolist() for level in levels])

    def estimate(self, groups: Groups, draws: Draws, same_again: bool) -> Estimate | None:
        """How sure it is."""
        if self.metric.name == "throughput":
            return statistics.of_repeats(self.matrix[:, 0], draws, self.pair.same_again)
        if self.metric.quantile is None:
            return statistics.estimate(self.matrix, groups.blocks, draws, same_again)
        return statistics.of_quantiles(self.a, self.b, groups.blocks, draws, self.metric.quantile, same_again)


def tested(compared: Compared, groups: Groups, rules: Rules, client_s: float | None) -> list[dict[str, Any]]:
    """Every pair of engines in every metric; Holm's adjustment and outcomes are still to be made (`settled`)."""
    found = []
    for pair in matched(compared):
        for metric in metrics_of(compared, rules):
            one = test(Differences.of(metric, pair, rules), groups, rules)
            if client_s is not None and metric.of:
                one["reason"] = one["reason"] or _within_client(metric, pair, client_s)
            found.append(one)
    return found


def test(of: Differences, groups: Groups, rules: Rules) -> dict[str, Any]:
    """One pair in one metric. Of one block the sessions' part of the interval is shown, and decides nothing."""
    metric, pair, repeats = of.metric, of.pair, len(of.pair.blocks_a)
    scale = "ratio" if metric.ratio else "difference"
    told: dict[str, Any] = {
        "a": pair.a, "b": pair.b, "metric": metric.name, "scale": scale,
        "ratio": None, "difference": None, "low": None, "high": None, "p": None, "p_holm": None, "outcome": TOO_LITTLE, "reason": None,
        "n_requests": 0, "n_sessions": 0, "session_blocks": 0, "blocks": repeats, "drift": 0.0,
    }  # fmt: skip
    if not repeats:
        return told | {"reason": NO_BLOCK}
    found = of.estimate(groups, rules.draws, pair.same_again)
    known = found or of.estimate(groups, rules.draws, True)
    if found is None:
        told["reason"] = ONE_BLOCK if repeats < 2 else FEW_SESSIONS
    if known is None:
        return told
    drift = of.drift
    back = exp if metric.ratio else float
    low, high = known.interval(rules.level, abs(drift))
    return told | {
        scale: back(known.mean), "low": back(low), "high": back(high), "drift": drift,
        "p": None if found is None else found.p(rules.margin_of(metric), abs(drift)),
        "n_requests": known.requests, "session_blocks": known.blocks,
        "n_sessions": len(np.unique(groups.sessions[~np.isnan(of.matrix).all(0)])) if known.requests else 0,
    }  # fmt: skip


def _within_client(metric: Metric, pair: Pair, client_s: float) -> str | None:
    """Why a difference may be the client's: what it adds at most to one request, over the gaps of the answer for TPOT."""
    if not pair.blocks_a:
        return None
    a, b = (
        np.array([block.seen.latencies[metric.of] for block in side])
        for side in (pair.blocks_a, pair.blocks_b)
    )
    known = ~np.isnan(b - a)
    if not known.any():
        return None
    q = metric.quantile
    typical = abs(
        float(np.median((b - a)[known]) if q is None else np.quantile(b[known], q) - np.quantile(a[known], q))
    )
    gaps = np.array([block.seen.output_tokens for block in pair.blocks_a])[known] - 1
    bound = client_s / max(1.0, float(np.median(gaps))) if metric.of == "tpot" else client_s
    if typical > bound:
        return None
    return f"the difference, {1000 * typical:.2g} ms, is not above what the client may add, {1000 * bound:.2g} ms"


def settled(found: list[dict[str, Any]], rules: Rules) -> list[dict[str, Any]]:
    """The same with Holm's adjustment over all of them, and each one's outcome."""
    able = [one for one in found if one["p"] is not None]
    for one, p in zip(able, statistics.holm([one["p"] for one in able]), strict=True):
        one["p_holm"] = p
        metric = METRICS[one["metric"]]
        low, high = (log(one[k]) if metric.ratio else one[k] for k in ("low", "high"))
        made = statistics.decide(low, high, p, rules.margin_of(metric), rules.level)
        if made.same:
            one |= {"outcome": SAME, "reason": None}
        elif made.sign and one["reason"] is None:
            one["outcome"] = "b" if (made.sign > 0) == metric.more_is_better else "a"
        elif one["reason"] is None:
            one["reason"] = "the interval reaches over the margin"
    return found


def control(compared: Compared, groups: Groups, rules: Rules) -> list[dict[str, Any]]:
    """Each engine's blocks against its own next ones. Nothing but chance differs, so no pair may come out beyond the margin."""
    found = []
    metrics = [METRICS[name] for name in (*LATENCIES, *(["slo"] if rules.objectives else []))]
    for one in (one for one in compared.contenders if not one.simulated):
        mine = one.at(compared.speed)
        for before, after in pairwise(mine):
            pair = Pair(one.name, one.name, [before], [after], same_again=True, drifts=False)
            for metric in metrics:
                told = test(Differences.of(metric, pair, rules), groups, rules)
                if told["n_requests"]:
                    found.append(told | {"block_a": before.repeat, "block_b": after.repeat})
    return found


def predictions(compared: Compared, groups: Groups, rules: Rules) -> list[dict[str, Any]]:
    """What was simulated (b) against what was measured (a)."""
    found = [
        test(Differences.of(METRICS[name], pair, rules), groups, rules)
        for pair in foretold(compared)
        for name in LATENCIES
    ]
    return settled(found, rules)


def winner(one: Mapping[str, Any]) -> str | None:
    """The name of the engine that a pair favours.

    >>> winner({"a": "x", "b": "y", "outcome": "b"})
    'y'
    """
    return one[one["outcome"]] if one["outcome"] in ("a", "b") else None
