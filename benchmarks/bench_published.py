"""Published figures of engines beside what the simulator makes of the same setup.

    python -m benchmarks.bench_published              every figure: published, predicted, ratio, and what is wrong with it
    python -m benchmarks.bench_published --docs       the same as tables, into docs/hardware.md

Figures and their sources: tests/published/engines/*.toml. Each is simulated with the factors in traceprof/simulate/hardware.
Where a group has a row with `fit`, one number is fitted there for each engine (all its times, times one factor), and the other
rows are predicted with it. `learnt` marks rows to which the card's factors themselves were fitted. A figure is impossible where
not even a card with every peak reached and an engine that adds nothing has it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from traceprof.caches.traffic import Traffic
from traceprof.simulate.cost import Costs
from traceprof.simulate.hardware import Card, Factors, card
from traceprof.simulate.schedulers import Scheduler, scheduler
from traceprof.simulate.served import SLOTS, Load, Served, serve
from traceprof.simulate.shape import PRESETS, Shape, shape_of

FILES = Path(__file__).parents[1] / "tests" / "published" / "engines"
METRICS = (
    "output_tokens_per_s", "prompt_tokens_per_s", "ttft_p50_s", "ttft_mean_s", "ttft_p99_s",
    "tpot_p50_s", "tpot_mean_s", "tpot_p99_s", "e2e_p99_s",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "hardware.md"
MARK = "<!-- from here on: python -m benchmarks.bench_published --docs -->\n"
GOLDEN = (5**0.5 - 1) / 2


class Row(NamedTuple):
    """One published measurement: its setup, and the figures."""

    file: str
    group: str
    engine: str
    label: str
    card: str
    model: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    figures: dict[str, float]  # by METRICS
    gpus: int = 1
    precision: str = "bf16"
    kv_dtype: str = "auto"
    shared_tokens: int = 0
    spread: float = 0.0  # answers are so much shorter and longer than output_tokens, evenly
    models: int = 1  # on the same cards, which take turns
    layer_split: bool = False  # the cards hold a part of the layers each and run one after the other
    offline: bool = False  # no requests over HTTP
    kv_share: float | None = (
        None  # of the memory that weights and reserve_bytes a card leave; None: as in Shape
    )
    reserve_bytes: float = 0.0
    max_seqs: int | None = None
    step_tokens: int | None = None
    step_s: float | None = None
    fit: str = ""  # the figure that one factor is fitted to
    learnt: bool = False
    note: str = ""

    @property
    def series(self) -> tuple[str, str]:
        """Rows that share what is fitted."""
        return self.group, self.label


class Figure(NamedTuple):
    """One published number beside the simulated one."""

    row: Row
    metric: str
    published: float
    predicted: float
    kind: str  # predicted, fitted (one factor, here) or learnt (the card's factors were fitted to it)
    efficiency: float  # of the hardware file's, that the fit took
    impossible: tuple[str, ...]
    odd: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.predicted / self.published


@functools.cache
def rows() -> tuple[Row, ...]:
    """All measurements, in the order of the files."""
    return tuple(
        row for file in sorted(FILES.glob("*.toml")) if file.name != "models.toml" for row in _rows(file)
    )


def _rows(file: Path) -> Iterator[Row]:
    for group in tomllib.loads(file.read_text("utf-8"))["group"]:
        shared = {key: value for key, value in group.items() if key not in ("name", "rows")}
        for own in group["rows"]:
            told = {**shared, **own}
            figures = {metric: told.pop(metric) for metric in METRICS if metric in told}
            told.setdefault("label", told["engine"])
            told.setdefault("requests", max(12, 6 * told["concurrency"]))
            yield Row(file=file.name, group=group["name"], figures=figures, **told)


@functools.cache
def _models() -> dict[str, dict[str, Any]]:
    return PRESETS | tomllib.loads((FILES / "models.toml").read_text("utf-8"))


def shape(row: Row) -> Shape:
    return shape_of(_models()[row.model], name=row.model, precision=row.precision, kv_dtype=row.kv_dtype)


def capacity(row: Row) -> int:
    """KV tokens for each of its models; at least a sequence at each place of the engine, so that all can be told even where nothing fits."""
    on, model = card(row.card), shape(row)
    memory = row.gpus * on.memory_bytes
    if row.kv_share is None:
        free = memory * on.memory_share / row.models - model.model.weight_bytes
    else:
        free = (memory - model.model.weight_bytes - row.gpus * row.reserve_bytes) * row.kv_share
    longest = row.prompt_tokens + round(row.output_tokens * (1 + row.spread)) + 256
    slots = rules(row).max_seqs if row.engine in SLOTS else 1
    return max(slots * longest, int(free / model.model.token_bytes(row.gpus)))


def costs(row: Row, factors: Factors | None = None, on: Card | None = None) -> Costs:
    on = on or card(row.card)
    told = factors or on.on(row.engine).factors
    if row.step_s is not None and factors is None:
        told = told._replace(step_s=row.step_s)
    found = Costs.of(on, shape(row), 1 if row.layer_split else row.gpus, told)
    return found._replace(request_s=0.0) if row.offline else found


def rules(row: Row) -> Scheduler:
    changes: dict[str, Any] = {}
    if row.max_seqs is not None:
        changes["max_seqs"] = row.max_seqs
    if row.step_tokens is not None:
        changes |= {"step_tokens": row.step_tokens, "chunk_tokens": row.step_tokens}
    return scheduler(row.engine, card(row.card).memory_bytes, **changes)


def simulate(row: Row, cost: Costs, **changes: Any) -> Served:
    """The measurement in virtual time: a closed loop of requests whose answers vary by the row's spread."""
    n, places = row.requests, -(-row.concurrency // row.models)
    like = np.where(np.arange(n) > 0, 0, -1) if row.shared_tokens else np.full(n, -1)
    shared = np.where(like >= 0, row.shared_tokens, 0)
    wide = row.spread * (2 * (np.arange(n) * GOLDEN % 1.0) - 1)
    answers = np.maximum(1, np.round(row.output_tokens * (1 + wide))).astype(np.int64)
    traffic = Traffic.of_shared(
        like.astype(np.int64), shared.astype(np.int64), np.full(n, row.prompt_tokens, np.int64)
    )
    return serve(
        row.engine,
        traffic.answered(answers),
        Load.closed(n, places),
        rules(row)._replace(**changes),
        cost,
        capacity(row),
    )


def measure(row: Row, served: Served, metric: str) -> float:
    if metric == "output_tokens_per_s":
        return float(served.output.sum() / served.window_s)
    if metric == "prompt_tokens_per_s":
        return float(row.prompt_tokens / served.ttft_s.mean())
    name, statistic, _ = metric.split("_")
    warm = row.concurrency if row.requests >= 3 * row.concurrency > 3 else 0  # they came all at once
    values = {"ttft": served.ttft_s, "tpot": served.tpot_s, "e2e": served.e2e_s}[name][warm:]
    values = values[~np.isnan(values)]
    return float(values.mean() if statistic == "mean" else np.quantile(values, int(statistic[1:]) / 100))


def figures() -> Iterator[Figure]:
    """Every number, predicted."""
    times = {row.series: _fitted(row) for row in rows() if row.fit}
    for row in rows():
        served = simulate(row, costs(row).scaled(times.get(row.series, 1.0)))
        efficiency = 1 / times.get(row.series, 1.0)
        impossible, odd = objections(row, measure(row, served, "output_tokens_per_s") / efficiency)
        reached = efficiency * card(row.card).on(row.engine).factors.memory
        if row.fit and reached > 1:
            impossible.setdefault(row.fit, []).append(f"the fit takes {reached:.2f} of the card's bandwidth")
        for metric, published in row.figures.items():
            kind = "fitted" if row.fit == metric else "learnt" if row.learnt else "predicted"
            yield Figure(
                row, metric, published, measure(row, served, metric), kind, efficiency,
                tuple(impossible.get(metric, ())), tuple(odd.get(metric, ())),
            )  # fmt: skip


def _fitted(row: Row) -> float:
    """By what all times are multiplied so that the row's figure is met: everything in a closed loop scales with them."""
    found, published = measure(row, simulate(row, costs(row)), row.fit), row.figures[row.fit]
    return found / published if row.fit.endswith("tokens_per_s") else published / found


# -- what no model can meet ----------------------------------------------------------------------------------------


def objections(row: Row, simulated: float = 0.0) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """By metric: what is physically impossible, and what does not go together; each sentence with its arithmetic.

    simulated  output tokens a second with the card's factors: with all of them 1 it is at least so much more
    """
    impossible: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {}
    on, model, told = card(row.card), shape(row), row.figures
    cards = f"{row.gpus} x " if row.gpus > 1 else ""
    rate, weights = told.get("output_tokens_per_s"), model.model.weight_bytes
    if row.models * weights > row.gpus * on.memory_bytes:
        for metric in told:
            impossible.setdefault(metric, []).append(
                f"{row.models} x {weights / 1e9:.1f} GB of weights do not fit {cards}{on.memory_bytes / 1e9:.1f} GB"
            )
    ideal = costs(row, Factors(), on.ideal())._replace(request_s=0.0)
    at_once = min(-(-row.concurrency // row.models), rules(row).max_seqs)
    read_ms = 1000 * ideal.weight_s
    if rate is not None and row.output_tokens > 1:
        bound = at_once / ideal.weight_s if not model.expert_bytes else float("inf")
        factors = on.on(row.engine).factors
        at_least = simulated / max(factors.compute, factors.memory, factors.attention)
        if rate > bound:
            impossible.setdefault("output_tokens_per_s", []).append(
                f"a step reads {model.read_bytes / 1e9:.1f} GB of weights, {read_ms:.1f} ms at "
                f"{ideal_bandwidth(row) / 1e12:.2f} TB/s: {at_once} at once get at most {bound:,.0f} tok/s"
            )
        elif rate > at_least and rate > (best := _best(row, ideal, at_once)):
            impossible.setdefault("output_tokens_per_s", []).append(
                f"with every peak reached and no overhead at all: {best:,.0f} tok/s"
            )
        held = capacity(row) // (row.prompt_tokens + row.output_tokens)
        if held < at_once and row.kv_share is None:
            odd.setdefault("output_tokens_per_s", []).append(
                f"the KV cache beside the weights holds {held} of {at_once} sequences of {row.prompt_tokens + row.output_tokens} tokens"
            )
    for metric in ("tpot_p50_s", "tpot_mean_s", "tpot_p99_s"):
        if metric in told and told[metric] < ideal.weight_s:
            impossible.setdefault(metric, []).append(
                f"a step takes at least {read_ms:.1f} ms to read the weights"
            )
    for metric in ("ttft_p50_s", "ttft_mean_s", "ttft_p99_s"):
        least = ideal.token_s * (row.prompt_tokens - row.shared_tokens)
        if metric in told and told[metric] < least:
            impossible.setdefault(metric, []).append(
                f"the prompt's products alone take {1000 * least:.0f} ms at peak"
            )
    if rate is not None and "tpot_p99_s" in told:
        mean, tail = row.concurrency / rate, told["tpot_p99_s"]
        if not 0.6 < mean / tail <= 1:
            odd.setdefault("tpot_p99_s", []).append(
                f"{row.concurrency} users at {1000 * tail:.0f} ms a token make {row.concurrency / tail:,.0f} tok/s, not {rate:,.0f}"
            )
    if {"ttft_p99_s", "tpot_p99_s", "e2e_p99_s"} <= told.keys():
        most = told["ttft_p99_s"] + (row.output_tokens - 1) * told["tpot_p99_s"]
        if told["e2e_p99_s"] > 1.1 * most:
            odd.setdefault("e2e_p99_s", []).append(
                f"TTFT p99 + {row.output_tokens - 1} x TPOT p99 is {most:.1f} s: at most 2 in 100 can take longer"
            )
        if rate is not None and told["e2e_p99_s"] > 2 * row.concurrency * row.output_tokens / rate:
            odd.setdefault("e2e_p99_s", []).append(
                f"by Little's law {row.concurrency} users at {rate / row.output_tokens:.1f} requests/s wait "
                f"{row.concurrency * row.output_tokens / rate:.1f} s on average"
            )
    _bend(row, odd)
    return impossible, odd


def _best(row: Row, ideal: Costs, at_once: int) -> float:
    """Output tokens a second at every peak, prompts computed beside decoding, over a long run."""
    many = row if row.requests == row.concurrency else row._replace(requests=max(row.requests, 40 * at_once))
    return measure(row, simulate(many, ideal, mixed=True), "output_tokens_per_s")


def ideal_bandwidth(row: Row) -> float:
    return card(row.card).bandwidth * (1 if row.layer_split else row.gpus)


def _bend(row: Row, odd: dict[str, list[str]]) -> None:
    """Time of a step grows with the sequences in it at a steady or rising rate: weights are read once, the rest for each."""
    series = sorted(
        (one for one in rows() if one.series == row.series and "output_tokens_per_s" in one.figures),
        key=lambda one: one.concurrency,
    )
    if len({one.concurrency for one in series}) < max(3, len(series)) or row is not series[0]:
        return
    (n0, t0), (n1, t1), (n2, t2) = ((one.concurrency, one.concurrency / one.figures["output_tokens_per_s"]) for one in (series[0], *series[-2:]))  # fmt: skip
    line = t1 + (t2 - t1) / (n2 - n1) * (n0 - n1)
    if t0 < 0.8 * line:
        odd.setdefault("output_tokens_per_s", []).append(
            f"{1000 * t0:.1f} ms a step, where the line through {n1} and {n2} users ({1000 * t1:.1f}, {1000 * t2:.1f} ms) has {1000 * line:.1f}"
        )


# -- the table -----------------------------------------------------------------------------------------------------


def shown(metric: str, value: float) -> str:
    if metric.endswith("tokens_per_s"):
        return f"{value:,.0f} tok/s" if value >= 100 else f"{value:.1f} tok/s"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.4g} ms"


def named(metric: str) -> str:
    return f"{metric.partition('_')[0]} tok/s" if metric.endswith("per_s") else metric.removesuffix("_s").replace("_", " ").replace("ttft", "TTFT").replace("tpot", "TPOT").replace("e2e", "E2E")  # fmt: skip


def setup(row: Row) -> str:
    many = f", {row.models} models" if row.models > 1 else ""
    batch = (
        row.concurrency if row.concurrency < row.requests or row.concurrency == 1 else f"all {row.requests:,}"
    )
    what = f"{row.model} {row.precision}, " if row.model not in row.group or "LLaMA 3" in row.group else ""
    return f"{what}{row.prompt_tokens:,}/{row.output_tokens:,}, {batch} at once{many}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/hardware.md")
    found = list(figures())
    if parser.parse_args().docs:
        above, mark, _ = PAGE.read_text("utf-8").partition(MARK)
        PAGE.write_text(above + mark + "\n".join(page(found)) + "\n", "utf-8")
    else:
        print("\n".join(table(found)))
    print("\n" + "\n".join(summary(found)))


def cells(one: Figure) -> tuple[str, ...]:
    row = one.row
    kind = {"fitted": f"fitted: {one.efficiency:.2f} of the card file's speed", "learnt": "learnt"}.get(
        one.kind, ""
    )
    notes = [kind, *(f"impossible: {text}" for text in one.impossible), *one.odd, row.note]
    return (
        row.label, setup(row), named(one.metric), shown(one.metric, one.published), shown(one.metric, one.predicted),
        f"{one.ratio:.2f}", "; ".join(note for note in notes if note),
    )  # fmt: skip


def table(found: list[Figure]) -> Iterator[str]:
    for group, of_it in itertools.groupby(found, lambda one: one.row.group):
        yield f"\n{group}"
        for one in of_it:
            yield "  {:<17} {:<52} {:<12} {:>12} {:>12} {:>5}  {}".format(*cells(one)).rstrip()


def page(found: list[Figure]) -> Iterator[str]:
    """The same in Markdown, under each file's source."""
    for file, of_file in itertools.groupby(found, lambda one: one.row.file):
        told = tomllib.loads((FILES / file).read_text("utf-8"))
        link = f" ([there]({told['url']}))" if "url" in told else ""
        yield f"\n### {told['title']}\n\n{told['source']}{link}. {told['note'][:1].upper()}{told['note'][1:]}."
        for group, of_it in itertools.groupby(of_file, lambda one: one.row.group):
            yield f"\n**{group}**\n\n| engine | in/out, load | figure | published | simulated | ratio | |"
            yield "| --- | --- | --- | --- | --- | --- | --- |"
            for one in of_it:
                yield "| " + " | ".join(cells(one)).replace("impossible:", "**impossible**:") + " |"


def summary(found: list[Figure]) -> Iterator[str]:
    predicted = [one for one in found if one.kind == "predicted"]
    sound = [one for one in predicted if not one.impossible and not one.odd]
    for text, chosen in (
        ("predicted, possible and in one piece", sound),
        ("all that were predicted", predicted),
    ):
        away = np.exp(np.abs(np.log([one.ratio for one in chosen])))
        shares = ", ".join(f"within a factor {most} {np.mean(away < most):.0%}" for most in (1.25, 1.5, 2))
        yield f"{text}: {len(chosen)} figures, median error {np.median(away) - 1:.0%}, {shares}"
    yield f"impossible: {sum(bool(one.impossible) for one in found)} of {len(found)} figures"


if __name__ == "__main__":
    main()
