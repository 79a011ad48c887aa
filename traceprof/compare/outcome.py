"""The one answer of a comparison, and what a reader must know before believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from traceprof.compare import pairs
from traceprof.compare.figures import under
from traceprof.compare.pairs import METRICS, SAME, TOO_LITTLE, Metric, Pair, winner
from traceprof.compare.runs import UNEXPLAINED, Block, Compared

LENGTHS = 0.02  # difference of tokens from which two engines did other work
TOGETHER = "ttft and tpot"
FAR = 3.0  # a ratio from which on it is told as one
NEAREST = 2  # pairs of the answer
BESIDE = 3  # of other metrics in the answer
WORDS = {
    "ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "slo": "the share of requests that meets the SLO", "failed": "the share of requests that failed",
    "ttft_p99": "p99 of TTFT", "tpot_p99": "p99 of TPOT", "throughput": "throughput", "max_rate": "the highest rate that holds the SLO", TOGETHER: "TTFT and TPOT",
}  # fmt: skip


# ---- the answer


def deciding(compared: Compared, objectives: Mapping[str, float]) -> list[str]:
    """The metrics that decide, one after the other, fixed before anything is looked at; a later one where the ones before are alike.

    What was searched for, else the SLO, else throughput of a closed loop; then E2E. Answers of other lengths make E2E a comparison of other
    work: then TTFT and TPOT must agree.
    """
    found = [TOGETHER if any(True for _ in unlike(compared, "output_tokens")) else "e2e"]
    if all(one.sweep is not None for one in compared.ranked):
        return ["max_rate", *found]
    if objectives:
        return ["slo", *found]
    return ["throughput", *found] if compared.mode == "closed" else found


def conclude(
    metrics: Sequence[str], names: Sequence[str], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Which engine the pairs favour: by the first metric in which they are not alike, and as far as that is sure."""
    if len(names) < 2:
        few: dict[str, Any] = {
            "favoured": None,
            "outcome": TOO_LITTLE,
            "metric": metrics[0],
            "among": [*names],
        }
        return few | {"why": "fewer than two engines have a valid run"}
    told, used = _by(metrics[0], names, found), {metrics[0]}
    for metric in metrics[1:]:
        further = _by(metric, names, found)
        if told["outcome"] != SAME or told["among"] != list(names) or further["outcome"] == TOO_LITTLE:
            break
        told = further | {"why": [*told["why"], *further["why"]]}
        used.add(metric)
    if TOGETHER in used:
        used |= {"ttft", "tpot"}
    beside = [one for one in found if one["metric"] not in used and winner(one)]
    beside = [one for one in beside if winner(one) in told["among"] or loser(one) in told["among"]]
    beside.sort(key=lambda one: one["metric"] != "failed")
    if told["favoured"] and any(
        one["metric"] == "failed" and loser(one) == told["favoured"] for one in beside
    ):
        told |= {"favoured": None, "outcome": TOO_LITTLE}
    if beside:
        more = f"; and {len(beside) - BESIDE} more" if len(beside) > BESIDE else ""
        told["why"].append("beside that, " + "; ".join(map(phrase, beside[:BESIDE])) + more)
    return told | {"why": "; ".join(told["why"])}


def _by(metric: str, names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By one metric: the only engine that no other beats, or those that no other beats, if they are alike."""
    own = _both(found) if metric == TOGETHER else [one for one in found if one["metric"] == metric]
    among = [name for name in names if all(loser(one) != name for one in own)]
    within = [one for one in own if one["a"] in among and one["b"] in among]
    open_ = [one for one in within if one["outcome"] == TOO_LITTLE]
    won = [one for one in own if winner(one) in among or (winner(one) and not among)]
    won.sort(key=_apart)  # who comes nearest decides
    most = NEAREST if among else len(won)
    farther = len(won) - most
    why = [*map(phrase, won[:most]), *([f"{farther} more, by more"] if farther > 0 else [])]
    favoured, outcome = (among[0], "favoured") if len(among) == 1 else (None, TOO_LITTLE)
    if open_:
        why = [*map(phrase, open_), *why]
    elif within:
        outcome = SAME
        listed = f"{', '.join(among[:-1])} and {among[-1]}"
        alike = f"no practical difference between {listed} in {WORDS[metric]}"
        why = [phrase(within[0]) if len(within) == 1 else alike, *why]
    return {"favoured": favoured, "outcome": outcome, "metric": metric, "among": among, "why": why}


def _apart(one: Mapping[str, Any]) -> float:
    """How far the two of a pair are apart, by the end of the interval that is nearer to no difference."""
    ends = [float(one[key]) for key in ("low", "high") if one[key] is not None]
    ratio = one.get("scale", "ratio") == "ratio"
    return min((abs(float(np.log(end))) if ratio and end > 0 else abs(end) for end in ends), default=0.0)


def loser(one: Mapping[str, Any]) -> str | None:
    """The name of the engine that a pair does not favour, where it favours one."""
    return one["b" if one["outcome"] == "a" else "a"] if winner(one) else None


def _both(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """TTFT and TPOT as one: a winner of one that does not lose the other."""
    made = []
    by = {(one["a"], one["b"], one["metric"]): one for one in found}
    for one in found:
        if one["metric"] != "ttft":
            continue
        other = by[one["a"], one["b"], "tpot"]
        outcomes = {one["outcome"], other["outcome"]}
        outcome, reason = TOO_LITTLE, one["reason"] or other["reason"]
        if outcomes == {"a", "b"}:
            reason = f"{phrase(one)}, {phrase(other)}"
        elif outcomes <= {"a", SAME} or outcomes <= {"b", SAME}:
            outcome = next(iter(outcomes - {SAME}), SAME)
        made.append(
            {**(one if winner(one) else other), "metric": TOGETHER, "outcome": outcome, "reason": reason}
        )
    return made


def phrase(one: Mapping[str, Any]) -> str:
    """A pair in words, from the winner's side.

    >>> phrase({"a": "x", "b": "y", "metric": "ttft", "scale": "ratio", "outcome": "b", "ratio": 0.8, "low": 0.75, "high": 0.85,
    ...         "blocks": 3, "n_sessions": 40})
    'TTFT of y is 20.0 % lower than that of x (15.0 to 25.0 %; 3 blocks, 40 sessions)'
    """
    what, name = WORDS[one["metric"]], winner(one)
    if one["outcome"] == TOO_LITTLE:
        return f"{what} of {one['a']} and {one['b']}: {one['reason']}"
    if one["metric"] == "max_rate":
        speeds = (f"{speed:.3g}" if speed else "none that was tried" for speed in one["speeds"].values())
        told = " and ".join(f"{speed} for {name}" for name, speed in zip(one["speeds"], speeds, strict=True))
        return f"{what}, in multiples of the recorded one, is {told}"
    if one["metric"] == TOGETHER:
        if one["outcome"] == SAME:
            return f"no practical difference between {one['a']} and {one['b']} in {what}"
        return f"{what}: {name} is better than {loser(one)}"
    metric = METRICS[one["metric"]]
    unit = "%" if metric.ratio else "points"
    counts = [(one["blocks"], "block"), (one["n_sessions"], "session")]
    sample = ", ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counts if n)
    size, *ends = (_share(one[key], metric, name == one["a"]) for key in (one["scale"], "low", "high"))
    low, high = sorted(ends)
    if one["outcome"] == SAME:
        return f"no practical difference between {one['a']} and {one['b']} in {what} ({low:+.1f} to {high:+.1f} {unit}; {sample})"
    low, high = sorted((abs(low), abs(high)))
    word = "higher" if metric.more_is_better else "lower"
    times = (
        [(1 / one[key] if name == one["a"] else one[key]) for key in ("ratio", "low", "high")]
        if metric.ratio
        else []
    )
    if times and not 1 / FAR < times[0] < FAR:
        size, low, high = (
            time if times[0] > 1 else 1 / time
            for time in (times[0], *sorted(times[1:], reverse=times[0] < 1))
        )
        return f"{what} of {name} is {size:.3g} times {word} than that of {loser(one)} ({low:.3g} to {high:.3g}; {sample})"
    return f"{what} of {name} is {abs(size):.1f} {unit} {word} than that of {loser(one)} ({low:.1f} to {high:.1f} {unit}; {sample})"


def _share(value: float, metric: Metric, turned: bool) -> float:
    """In per cent or points, as seen from the other side if `turned`."""
    if metric.ratio:
        return 100 * ((1 / value if turned else value) - 1)
    return -100 * value if turned else 100 * value


# ---- the workloads together


def split(workloads: Sequence[Mapping[str, Any]]) -> str | None:
    """In words, where prompts that share and prompts that do not favour different engines."""
    by = {one["variant"]: one["outcome"]["favoured"] for one in workloads}
    shared, unique = by.get("shared") or by.get("asis"), by.get("unique")
    if shared is None or unique is None or shared == unique:
        return None
    return (
        f"with the traffic's own shared prefixes {shared} is favoured, with unique prompts of the same lengths {unique}: "
        f"{shared} gains by its prefix cache what it loses in raw speed, so the answer turns on how much of your traffic is shared"
    )


# ---- what must be known


def cautions(compared: Compared) -> Iterator[str]:
    """What lowers the trust in a workload's comparison, as far as the order of runs and the state of caches go."""
    if compared.unlike and compared.simulated:
        yield f"the folders were simulated with other options: {', '.join(compared.unlike)}"
    if compared.simulated:
        machines = {str(under(one.results.manifest, "simulated", "label")) for one in compared.contenders}
        if len(machines) > 1:
            yield f"the engines were simulated on other machines: {', '.join(sorted(machines))}"
        return
    if compared.unlike:
        yield f"the folders were replayed with other options: {', '.join(compared.unlike)}"
    if compared.folders > 1:
        yield "the engines were replayed at different times: what changed between them is taken for a difference of engines"
    elif compared.order == "blocked" and len(compared.ranked) > 1:
        yield "each engine had all its runs before the next one had any (order blocked): what drifts is taken for a difference of engines"
    for one in compared.ranked:
        for block in one.valid:
            yield from (f"{_run(one.name, block)}: {why}" for why in _contaminated(block, compared))


def _contaminated(block: Block, compared: Compared) -> Iterator[str]:
    """Whether prompts of other runs were in the cache: how it was parted from them, and what cached tokens say of that."""
    isolation = under(block.told, "isolation")
    if isolation is not None and not isolation.get("ok"):
        yield f"the cache may hold prompts of earlier runs: {isolation.get('why')}"
    told, unexplained = (
        under(block.told, "cache", "told_tokens"),
        under(block.told, "cache", "unexplained_tokens"),
    )
    if unexplained is None:  # its cache has no model: what the workload says of each prompt must do
        found = _beyond(block, compared)
        if found is None:
            return
        unexplained, told = found
    if told and unexplained > UNEXPLAINED * told:
        yield f"{100 * unexplained / told:.0f} % of its cached tokens cannot be of its own prompts: the cache was not empty"


def _beyond(block: Block, compared: Compared) -> tuple[float, float] | None:
    """Cached tokens beyond what any cache has of earlier prompts of the workload, and all of them; a prompt that nothing shares has none."""
    workload = compared.workload
    if workload is None:
        return None
    prefix = np.concatenate(
        [
            batch.column("prefix_tokens").cast("float64").fill_null(float("nan")).to_numpy()
            for batch in workload.batches(["prefix_tokens"])
        ]
    )
    over = block.seen.cached_tokens - prefix
    known = block.seen.ok & ~np.isnan(over)
    return float(over[known].clip(0).sum()), float(block.seen.cached_tokens[known].sum())


def notes(compared: Compared, client_s: float | None) -> Iterator[str]:
    """What else must be known of a workload's comparison."""
    for one in compared.contenders:
        for block in one.blocks:
            if block.why_not is not None:
                yield f"{_run(one.name, block)} is not compared: {block.why_not}"
    if not compared.simulated and client_s is None:
        yield "what the client itself adds was not measured (--no-calibrate): small differences may be its own"
    for a, b, more in unlike(compared, "output_tokens"):
        yield f"answers of {b} have {100 * more:+.1f} % tokens against {a}: E2E compares other work"
    for a, b, more in unlike(compared, "input_tokens"):
        yield f"prompts have {100 * more:+.1f} % tokens at {b} against {a}: another tokenizer or chat template"
    for pair in pairs.matched(compared):
        if (lost := _unpaired(pair)) > LENGTHS:
            yield f"{100 * lost:.0f} % of requests failed at {pair.a} or {pair.b}, and are in no latency of that pair"
    if compared.workload is None:
        yield f"{compared.stated['file']} is not where it was, or is another file: there are no segments by shared prefix"


def _run(name: str, block: Block) -> str:
    return f"run {block.run.path.name.partition('-')[0].lstrip('0') or 0} ({name})"


def unlike(compared: Compared, column: str) -> Iterator[tuple[str, str, float]]:
    """Pairs of engines that did other work on the same requests, and by how much b's is more."""
    for pair in pairs.matched(compared):
        sums = np.zeros(2)
        for x, y in zip(pair.blocks_a, pair.blocks_b, strict=True):
            a, b = (np.where(z.seen.ok & z.seen.asked, getattr(z.seen, column), np.nan) for z in (x, y))
            both = ~np.isnan(a + b)
            sums += a[both].sum(), b[both].sum()
        if sums[0] and abs(sums[1] / sums[0] - 1) > LENGTHS:
            yield pair.a, pair.b, float(sums[1] / sums[0] - 1)


def _unpaired(pair: Pair) -> float:
    """Share of requests of which one side has no answer."""
    asked = both = 0
    for x, y in zip(pair.blocks_a, pair.blocks_b, strict=True):
        asked += int(x.seen.asked.sum())
        both += int((x.seen.ok & y.seen.ok & x.seen.asked).sum())
    return 1 - both / asked if asked else 0.0
