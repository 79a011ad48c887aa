"""How far an engine really gets on your hardware: factors fitted to a replay, and how well they tell what was not fitted to.

The requests of a run are sent to the virtual engine when they were really sent. Factors are moved (Nelder-Mead, on their logarithms)
until the times of its first half are met best: the mean of |log(simulated / measured)| over TTFT, TPOT and E2E. What is told as the
error is of the second half, which the fit did not see. Prompts' cache hits are the model's own, not those that the engine told.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from traceprof.caches.traffic import Traffic
from traceprof.engines import engine as record
from traceprof.errors import TraceprofError
from traceprof.simulate.cost import Costs
from traceprof.simulate.hardware import Factors
from traceprof.simulate.host import Host
from traceprof.simulate.results import COLUMNS
from traceprof.simulate.schedulers import ENGINES
from traceprof.simulate.served import SLOTS, Load, Served, serve
from traceprof.workers import Progress
from traceprof.workloads import Workload

if TYPE_CHECKING:
    from traceprof.results import Results, Run

F64: TypeAlias = NDArray[np.float64]

FITTED = ("compute", "memory", "attention", "step_s", "seq_s", "request_s")
FLOOR = {"compute": 1e-5, "memory": 1e-5, "attention": 1e-5, "step_s": 1e-6, "seq_s": 1e-7, "request_s": 1e-5}
MOST = 4_000  # requests that are looked at: more would take long, and tell little more
LOST = 0.01  # share of requests that may fail in virtual time and did not before
FEWEST = 20  # requests that ended well, below which nothing is fitted
TRIES, REQUESTS_TRIED = 600, 600_000  # at least so many, more where a try is short
BOUND = 25.0  # of a factor's logarithm
METRICS = ("ttft", "tpot", "e2e")


class Errors(NamedTuple):
    """Simulated against measured: medians over requests of |simulated - measured| / measured; throughput of the whole."""

    ttft: float | None
    tpot: float | None
    e2e: float | None
    throughput: float | None  # output tokens a second, from the first send to the last end


class Fit(NamedTuple):
    """One engine's factors."""

    engine: str
    factors: Factors
    fitted_requests: int
    held_out_requests: int
    before: Errors  # of the held-out half, with the card's own factors
    after: Errors  # the same with the fitted ones
    in_sample: Errors


class Measured(NamedTuple):
    """What a run's requests saw, and what they were."""

    engine: str  # name of its scheduler and cache
    traffic: Traffic
    load: Load
    capacity_tokens: int
    options: Mapping[str, Any]  # of the cache's model, as the engine told them
    ttft: F64  # seconds
    tpot: F64
    e2e: F64

    @classmethod
    def of(cls, run: Run, host: Host) -> Measured | str:
        """A run whose engine is simulated; why not, else."""
        told = run.told()
        if not told:
            return "the run did not come to its end"
        name = record(told["engine"]["name"]).cache or told["engine"]["name"]
        if name not in ENGINES:
            return f"{told['engine']['label']} is not simulated"
        try:
            workload = Workload(told["workload"])
        except TraceprofError as bad:
            return str(bad)
        if workload.requests != told["requests"]:
            return f"{workload.path} is another workload than was sent"
        rows = pl.from_arrow(pa.Table.from_batches(workload.batches(COLUMNS)))
        assert isinstance(rows, pl.DataFrame)
        if rows["prefix_tokens"].null_count():
            return "the workload does not tell what prompts share"
        seen = run.requests().filter((pl.col("outcome").cast(pl.String) == "ok") & pl.col("first_token_us").is_not_null()).sort("sent_us", "index")  # fmt: skip
        if len(seen) < FEWEST:
            return f"fewer than {FEWEST} requests ended well"
        seen = seen.head(MOST)
        at = seen["index"].to_numpy()
        like, shared = (
            rows["prefix_of"].fill_null(-1).to_numpy(),
            rows["prefix_tokens"].cast(pl.Int64).to_numpy(),
        )
        whole = Traffic.of_shared(like, shared, rows["input_tokens"].cast(pl.Int64).to_numpy())
        output = seen["output_tokens"].fill_null(1).cast(pl.Int64).to_numpy()
        sent, first, end = (
            seen[column].to_numpy().astype(np.int64) for column in ("sent_us", "first_token_us", "end_us")
        )
        last = seen["last_token_us"].fill_null(pl.Series(end)).to_numpy()
        settings = dict(told["server"].get("settings") or {})
        return cls(
            name, whole.subset(at).answered(output), Load.at(sent - sent[0]), int(told["server"].get("capacity_tokens") or host.capacity_tokens),
            settings, (first - sent) / 1e6, np.where(output > 1, (last - first) / 1e6 / np.maximum(output - 1, 1), np.nan), (last - sent) / 1e6,
        )  # fmt: skip

    @property
    def half(self) -> NDArray[np.bool_]:
        """The first half, by when they were sent."""
        return np.arange(len(self.ttft)) < len(self.ttft) // 2

    def run(self, host: Host, factors: Factors, max_seqs: int | None = None) -> Served:
        """The same requests in virtual time."""
        options = {
            key: value
            for key, value in self.options.items()
            if key in ("block_size", "slots", "num_parallel", "unified")
        }
        slots = options.get(SLOTS.get(self.engine, ""))
        changes = {} if max_seqs is None and slots is None else {"max_seqs": max_seqs or slots}
        costs = Costs.of(
            host.card, host.shape, host.gpus, factors, context_tokens=int(self.traffic.total.mean())
        )
        return serve(
            self.engine, self.traffic, self.load, host.scheduler(self.engine, **changes), costs, self.capacity_tokens, token_bytes=host.token_bytes,
            options=options,
        )  # fmt: skip

    def errors(self, served: Served, which: NDArray[np.bool_]) -> Errors:
        """How far apart they are."""
        found = {}
        for metric in METRICS:
            simulated, measured = _all(served, metric)[which], getattr(self, metric)[which]
            known = ~np.isnan(simulated) & ~np.isnan(measured) & (measured > 0)
            found[metric] = (
                float(np.median(np.abs(simulated - measured)[known] / measured[known]))
                if known.any()
                else None
            )
        sent = self.load.scheduled[which] / 1e9
        tokens = self.traffic.total[which] - self.traffic.prompt[which]
        rates = [
            float(tokens.sum() / ((sent + e2e[which]).max() - sent.min()))
            for e2e in (_all(served, "e2e"), self.e2e)
        ]
        return Errors(**found, throughput=abs(rates[0] / rates[1] - 1))

    def distance(self, served: Served, which: NDArray[np.bool_]) -> float:
        """What the fit makes small."""
        parts = []
        for metric in METRICS:
            simulated, measured = _all(served, metric)[which], getattr(self, metric)[which]
            known = ~np.isnan(simulated) & ~np.isnan(measured) & (measured > 0) & (simulated > 0)
            if known.any():
                parts.append(float(np.abs(np.log(simulated[known] / measured[known])).mean()))
        lost = float((~served.ok[which]).mean())  # what fails here and did not there
        return sum(parts) + len(METRICS) * lost if parts else np.inf


def _all(served: Served, metric: str) -> F64:
    """Seconds, one entry a request, NaN where it failed."""
    values = np.full(len(served.ok), np.nan)
    values[served.ok] = getattr(served, f"{metric}_s")
    return values


def calibrate(
    results: Results, host: Host, *, max_seqs: int | None = None, progress: Progress | None = None
) -> tuple[list[Fit], list[str]]:
    """A fit for each engine, from its first run that is no warm-up, and what was left out and why. Raises TraceprofError where nothing can be fitted."""
    fits: list[Fit] = []
    left_out: list[str] = []
    runs = [run for run in results.runs if not run.told().get("warmup_run")]
    for number, run in enumerate(runs):
        name = run.name
        if any(fit.engine == _cache_of(run) for fit in fits):
            if all(run.name != other.name for other in runs[:number]):
                left_out.append(f"{name}: another of the same engine is fitted")
            continue
        measured = Measured.of(run, host)
        if isinstance(measured, str):
            left_out.append(f"{name}: {measured}")
            continue
        if (
            lost := int((~measured.run(host, host.factors(measured.engine), max_seqs).ok).sum())
        ) > LOST * len(measured.ttft):
            left_out.append(
                f"{name}: {lost:,} of {len(measured.ttft):,} requests do not fit into {measured.capacity_tokens:,} tokens of KV cache"
            )
            continue
        fits.append(fit(measured, host, max_seqs))
        if progress is not None:
            progress("fits", number + 1, len(runs))
    if not fits:
        raise TraceprofError("nothing to fit: " + "; ".join(left_out or ["there are no runs"]), path=results.path, remedy="replay a workload against an engine first")  # fmt: skip
    return fits, left_out


def _cache_of(run: Run) -> str | None:
    told = run.told()
    return record(told["engine"]["name"]).cache if told else None


def fit(measured: Measured, host: Host, max_seqs: int | None = None) -> Fit:
    """Factors that meet the first half best, and the errors of the second."""
    from scipy.optimize import minimize

    start, half = host.factors(measured.engine), measured.half
    tries = max(TRIES, REQUESTS_TRIED // len(measured.ttft))

    def factors(x: F64) -> Factors:
        return start._replace(**{name: float(np.exp(value)) for name, value in zip(FITTED, x, strict=True)})

    def distance(x: F64) -> float:
        if (np.abs(x) > BOUND).any():
            return np.inf
        return measured.distance(measured.run(host, factors(x), max_seqs), half)

    def search(x: F64, share: float, width: float) -> Any:
        simplex = np.vstack([x, *(x + step for step in np.eye(len(x)) * width)])
        options = {"maxfev": int(tries * share), "initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-5}
        return minimize(distance, x, method="Nelder-Mead", options=options)

    first = np.log([max(FLOOR[name], getattr(start, name)) for name in FITTED])
    adds = np.array([name.endswith("_s") for name in FITTED])
    # a tiny model's steps are all overhead, a large one's none
    tried = [search(first + adds * np.log(scale), 0.2, 1.5) for scale in (1.0, 0.05, 10.0)]
    best = min(tried, key=lambda found: found.fun)
    again = search(best.x, 0.4, 0.3)
    chosen = factors(again.x if again.fun < best.fun else best.x)
    before, after = (measured.run(host, one, max_seqs) for one in (start, chosen))
    return Fit(
        measured.engine, chosen, int(half.sum()), int((~half).sum()), measured.errors(before, ~half), measured.errors(after, ~half),
        measured.errors(after, half),
    )  # fmt: skip


def written(fits: list[Fit], host: Host) -> str:
    """A TOML file of factors, as `--factors` reads it."""
    lines = [
        f"# Factors fitted by traceprof calibrate, {datetime.datetime.now(datetime.UTC).date()}: {host.label}",
        "# error: of the half of the requests that the fit did not see, medians of |simulated - measured| / measured",
        "",
        f'card = "{host.card.name}"',
        f"gpus = {host.gpus}",
        f'precision = "{host.shape.precision}"',
    ]
    for one in fits:
        lines += ["", f"[engines.{one.engine}]"]
        lines += [f"{name} = {value:.6g}" for name, value in one.factors._asdict().items()]
        lines += [
            f"error.{name} = {value:.4f}" for name, value in one.after._asdict().items() if value is not None
        ]
        lines += [f"requests = {one.fitted_requests + one.held_out_requests}"]
    return "\n".join(lines) + "\n"


def write(path: Path, fits: list[Fit], host: Host) -> None:
    """The file, whole or not at all."""
    part = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(written(fits, host), "utf-8")
        part.replace(path)
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=path, remedy="give another -o"
        ) from None
