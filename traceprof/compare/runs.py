"""What is compared: the runs of results folders, sorted by workload and engine, and what each request of a run saw."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from traceprof import latency
from traceprof.errors import TraceprofError, UsageError
from traceprof.results import REQUESTS, Results, Run
from traceprof.workloads import Workload

F64: TypeAlias = NDArray[np.float64]
BOOL: TypeAlias = NDArray[np.bool_]
LATENCIES = ("ttft", "tpot", "e2e")
# options of the client that make another load of the same workload
ALIKE = ("mode", "concurrency", "speed", "history", "stream", "pin_output")
UNEXPLAINED = 0.01  # share of told cached tokens from which a cache was not empty
_COLUMNS = (
    "index", "session_id", "warmup", "scheduled_us", "intended_us", "sent_us", "first_token_us", "end_us", "outcome", "input_tokens",
    "output_tokens", "cached_tokens", "predicted_cached_tokens",
)  # fmt: skip


class Seen(NamedTuple):
    """What the requests of a run saw, by row of the workload."""

    latencies: Mapping[str, F64]  # seconds by name; NaN where a request has none
    asked: BOOL  # that are in figures: no warm-up
    ok: BOOL
    output_tokens: F64
    cached_tokens: F64
    input_tokens: F64
    scheduled_s: F64

    @classmethod
    def of(cls, requests: pl.DataFrame, rows: int) -> Seen:
        """From a run's requests, of a workload with so many rows."""
        at = requests["index"].to_numpy()
        bare = requests.with_columns(chunk_us=pl.lit(None, pl.List(pl.Int64)))
        ended = latency.measured(bare)
        found, where = latency.Latencies.of(bare), ended["index"].to_numpy()
        asked = np.zeros(rows, np.bool_)
        asked[at[~requests["warmup"].to_numpy()]] = True
        ok = np.zeros(rows, np.bool_)
        ok[where] = True

        def placed(values: F64, rows_of: NDArray[np.int64]) -> F64:
            whole = np.full(rows, np.nan)
            whole[rows_of] = values
            return whole

        def column(name: str) -> F64:
            return placed(requests[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), at)

        return cls(
            {name: placed(getattr(found, name), where) for name in LATENCIES},
            asked, ok, column("output_tokens"), column("cached_tokens"), column("input_tokens"), column("scheduled_us") / 1e6,
        )  # fmt: skip

    def meets(self, objectives: Mapping[str, float]) -> F64:
        """1 where a request meets all of them, 0 where it does not or failed, NaN for warm-up. One token has no TPOT, and meets that."""
        good = self.ok.copy()
        for name, limit in objectives.items():
            values = self.latencies[name]
            good &= (values <= limit) | (np.isnan(values) & (name == "tpot"))
        return np.where(self.asked, good.astype(np.float64), np.nan)


@dataclass(frozen=True)
class Block:
    """One run of a workload on an engine: a block of the comparison."""

    run: Run
    number: int  # place among all runs, in their order
    repeat: int
    speed: float
    rows: int  # of the workload
    state: Mapping[str, Any]  # its entry in the manifest

    @cached_property
    def told(self) -> dict[str, Any]:
        """What run.json holds."""
        return self.run.told()

    @property
    def why_not(self) -> str | None:
        """Why it is not compared; None where it is."""
        if self.state.get("state", "done") != "done" or not self.told:
            return f"it is {self.state.get('state', 'unfinished')}, not done"
        return None if self.told.get("valid", True) else str(self.told.get("invalid_because"))

    def frame(self) -> pl.DataFrame:
        """Its requests, without what is long."""
        if (file := self.run.path / REQUESTS).exists():
            return pl.read_parquet(file, columns=list(_COLUMNS))
        return self.run.requests().select(_COLUMNS)

    @cached_property
    def seen(self) -> Seen:
        """What its requests saw."""
        return Seen.of(self.frame(), self.rows)


@dataclass(frozen=True)
class Contender:
    """One engine on one workload, with its blocks."""

    name: str
    engine: str
    results: Results
    blocks: tuple[Block, ...]
    sweep: Mapping[str, Any] | None  # what a search for the highest rate found
    simulated: bool = False

    @property
    def valid(self) -> list[Block]:
        """Blocks that are compared."""
        return [one for one in self.blocks if one.why_not is None]

    def at(self, speed: float) -> list[Block]:
        """Of them, those at one speed, by repeat."""
        return sorted((one for one in self.valid if one.speed == speed), key=lambda one: one.number)


@dataclass(frozen=True)
class Compared:
    """One workload, and who was given it."""

    stated: Mapping[str, Any]  # its entry in the manifest: file, digest, variant, requests
    contenders: tuple[Contender, ...]
    order: str
    folders: int
    mode: str  # of the client
    unlike: tuple[str, ...] = ()  # the client's options that are not the same in all folders
    looked_for: tuple[Path, ...] = field(default=())  # folders in which its file may be, too

    @property
    def rows(self) -> int:
        """Requests, warm-up included."""
        return int(self.stated["requests"])

    @cached_property
    def ranked(self) -> tuple[Contender, ...]:
        """Those that are ranked: live ones, unless fewer than two of them are there."""
        live = tuple(one for one in self.contenders if not one.simulated)
        return live if len(live) > 1 else tuple(one for one in self.contenders if one.simulated) or live

    @property
    def simulated(self) -> bool:
        """Whether those are simulated."""
        return all(one.simulated for one in self.ranked)

    @cached_property
    def speed(self) -> float:
        """The one at which most can be compared: a sweep goes through many."""
        speeds = {block.speed for one in self.contenders for block in one.valid}
        return max(speeds, key=lambda s: (min(len(one.at(s)) for one in self.ranked), s), default=1.0)

    @cached_property
    def sessions(self) -> tuple[NDArray[np.int64], F64]:
        """The number of each request's session, and when the request was to be sent; -1 for one that no run has."""
        for one in self.contenders:
            for block in one.valid:
                frame = block.frame()
                at = frame["index"].to_numpy()
                # a request without a session is one by itself
                names = frame["session_id"].fill_null(pl.lit("\0") + frame["index"].cast(pl.String))
                number = np.full(self.rows, -1, np.int64)
                number[at] = names.rank("dense").to_numpy().astype(np.int64) - 1
                return number, block.seen.scheduled_s
        return np.full(self.rows, -1, np.int64), np.full(self.rows, np.nan)

    @cached_property
    def workload(self) -> Workload | None:
        """Its file, where it still is what was replayed."""
        stated = Path(self.stated["file"])
        for path in dict.fromkeys((stated, *(folder / stated.name for folder in self.looked_for))):
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if self.stated.get("digest") == digest:
                    return Workload(path)
            except (OSError, TraceprofError):
                continue
        return None


def read(paths: Sequence[Path]) -> list[Compared]:
    """The workloads of results folders, each with all engines that were given it, in the order in which they come.

    An engine whose name stands in several folders is called FOLDER/NAME.
    """
    found = [Results(path) for path in paths]
    if len({one.path.resolve() for one in found}) < len(found):
        raise UsageError("one results folder is given twice")
    names = Counter(one["name"] for results in found for one in results.manifest["engines"])
    folders = Counter(one.path.resolve().name for one in found)
    parts: dict[str, list[tuple[Results, int, Mapping[str, Any]]]] = {}
    for results in found:
        for n, workload in enumerate(results.manifest["workloads"]):
            parts.setdefault(workload.get("digest") or workload["file"], []).append((results, n, workload))
    before = {id(one): sum(len(other.manifest["runs"]) for other in found[:k]) for k, one in enumerate(found)}
    compared = []
    for held in parts.values():
        contenders = []
        for results, n, workload in held:
            folder = results.path.resolve()
            prefix = folder.name if folders[folder.name] == 1 else str(results.path)
            for stated in results.manifest["engines"]:
                name = stated["name"] if names[stated["name"]] == 1 else f"{prefix}/{stated['name']}"
                contenders.append(_contender(results, n, workload, stated, name, before[id(results)]))
        compared.append(_joined([results for results, _, _ in held], held[0][2], contenders))
    if all(len(one.contenders) < 2 for one in compared):
        what = "no workload was given to two engines"
        remedy = "replay one workload on two engines, or give two results folders of the same workload"
        raise UsageError(what, remedy=remedy)
    return compared


def _joined(
    folders: Sequence[Results], stated: Mapping[str, Any], contenders: Sequence[Contender]
) -> Compared:
    """One workload of several folders; order and options of the client are those of the live ones, if there are any."""
    live = [one.manifest for one in folders if not one.manifest.get("simulated")] or [folders[0].manifest]
    options = [one.get("options") or {} for one in live]
    return Compared(
        stated,
        tuple(contenders),
        (live[0].get("scenario") or {}).get("order", "interleaved"),
        len(live),
        options[0].get("mode", "partly-open"),
        tuple(key for key in ALIKE if len({str(one.get(key)) for one in options}) > 1),
        tuple(place for one in folders for place in (one.path, one.path.parent, Path())),
    )


def _contender(
    results: Results,
    workload: int,
    stated_workload: Mapping[str, Any],
    stated: Mapping[str, Any],
    name: str,
    before: int,
) -> Contender:
    by_number = {int(run.path.name.partition("-")[0]): run for run in results.runs}
    blocks = tuple(
        Block(
            by_number[state["number"]], before + state["number"], state.get("repeat", 0), float(state.get("speed", 1.0)),
            int(stated_workload["requests"]), state,
        )
        for state in results.manifest["runs"]
        if (state["name"], state["workload"]) == (stated["name"], workload)
        and not state.get("warmup") and state["number"] in by_number
    )  # fmt: skip
    sweeps = (
        one
        for one in results.manifest.get("sweep") or ()
        if (one["name"], one["workload"]) == (stated["name"], workload)
    )
    return Contender(
        name,
        str(stated.get("engine", stated["name"])),
        results,
        blocks,
        next(sweeps, None),
        bool(results.manifest.get("simulated")),
    )
