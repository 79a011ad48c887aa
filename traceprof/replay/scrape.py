"""An engine's own counters, read before, during and after a run, and held against what the requests were told.

What is compared are differences of counters, by meaning: `engines.base.MEANINGS`. A scrape costs the client nothing, as it is
read in the process that sends no requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from traceprof import engines, schema
from traceprof.engines import exposition
from traceprof.engines.asking import Ask, Reply
from traceprof.engines.base import GAUGES, SHARES, Engine, Telemetry
from traceprof.engines.exposition import Sample
from traceprof.errors import TraceprofError
from traceprof.replay.server import Counters, asking
from traceprof.results import Run

if TYPE_CHECKING:
    import polars as pl

SCRAPES = "scrapes.parquet"
BEFORE, DURING, AFTER = "before", "during", "after"
SETTLE_S = 10.0  # longest wait for counters that follow the requests
QUIET_S = 1.0  # counters that stand still for so long are taken for final
_PRIVATE = frozenset(
    (
        "hashed_api_key", "api_key_alias", "end_user", "user", "user_id", "user_alias", "user_email", "client_ip",
        "requester_ip_address", "user_agent", "team", "team_alias", "team_id", "org_id", "org_alias",
    )
)  # fmt: skip
"""Labels that say who asked: LiteLLM has them. They are not kept."""


class Row(NamedTuple):
    """One row of `schema.RESULT_SCRAPES`."""

    at_us: int
    phase: str
    name: str
    labels: str
    value: float


def whose(engine: Engine, metrics: Sequence[str], ca: Path | None = None) -> Engine:
    """The engine whose counters are at these URLs: its own, or behind a router those of the engines that it asks.

    Raises TraceprofError where one of them does not answer, or has no counters that are known.
    """
    if not metrics:
        return engine
    samples: list[Sample] = []
    for url in metrics:
        at = Counters.of(url)
        found, reply = _Place(at.asking(ca, 5), at.path, at.authority).read()
        if not found:
            said = f"answered {reply.status}, without counters" if reply.status else "did not answer"
            raise TraceprofError(
                f"{at.path} at {at.authority} {said}", remedy="check the URL of the counters"
            )
        samples += found
    known: dict[str, int] = {}
    for one in (engine, *map(engines.engine, engines.NAMES)):
        if one.telemetry is not None:
            known.setdefault(one.name, len(exposition.present(one.telemetry.series, samples)))
    name = engine.name if known.get(engine.name) else max(known, key=lambda one: known[one])
    if not known[name]:
        at = Counters.of(metrics[0])
        raise TraceprofError(
            f"{at.path} at {at.authority} has no counter of an engine that is known",
            remedy="check the URL of the counters",
        )
    return engine if name == engine.name else engines.engine(name)


class Scraper:
    """Reads one engine's counters: `before()`, `start(...)`, and `after()`, which gives all rows.

    They are where the engine answers, or at the URLs `metrics`: those of several engines behind one router are summed. `trouble` says why there are none, where there are none.
    """

    def __init__(
        self,
        url: str,
        engine: Engine,
        api_key: str | None = None,
        ca: Path | None = None,
        *,
        metrics: Sequence[str] = (),
        ask: Ask | None = None,
    ) -> None:
        self._engine = engine
        own = "" if engine.telemetry is None else engine.telemetry.path
        self._places = [_Place(ask or asking(url, api_key, ca, timeout_s=5), own, "")]
        if metrics:
            elsewhere = [Counters.of(one) for one in metrics]
            self._places = [_Place(one.asking(ca, 5), one.path, one.authority) for one in elsewhere]
        self._read: list[tuple[int, str, list[Sample]]] = []  # ns, phase, samples
        self._zero_ns: int | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.missed = 0  # scrapes that got no answer
        self.trouble: str | None = None
        if engine.telemetry is None:
            self.trouble = f"{engine.label} has no counters"

    def before(self) -> None:
        """Read all there is, before the first request."""
        self._scrape(BEFORE)

    def start(self, interval_s: float, zero_ns: int) -> None:
        """From now on read what has a meaning once an interval; `zero_ns` is the run's start on the monotonic clock."""
        self._zero_ns = zero_ns
        if self.trouble is None and interval_s > 0:
            self._thread = threading.Thread(target=self._watch, args=(interval_s,), daemon=True)
            self._thread.start()

    def after(self, settle_s: float = SETTLE_S, quiet_s: float = QUIET_S) -> list[Row]:
        """Read all there is once counters stand still, since they may follow the last request; all rows of the run."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
        if self.trouble is None and self._engine.telemetry is not None:
            self._settle(self._engine.telemetry, settle_s, quiet_s)
            if self._read[-1][1] != AFTER:
                self.trouble = f"{self._engine.label}'s counters could not be read after the run"
        return self._rows()

    def _settle(self, telemetry: Telemetry, settle_s: float, quiet_s: float) -> None:
        end = time.monotonic() + settle_s
        quiet_since, last = time.monotonic(), None
        at_rest = next((_by_meaning(telemetry, read[2]).get("running", 0) for read in self._read), 0)
        while self._scrape(AFTER):
            now = time.monotonic()
            samples = self._read[-1][2]
            counts = _by_meaning(telemetry, samples)
            if counts != last:
                quiet_since, last = now, counts
            quiet = now - quiet_since >= quiet_s and counts.get("running", 0) <= at_rest
            if quiet or now >= end:
                return
            self._read.pop()
            time.sleep(min(0.2, quiet_s / 2))

    def _watch(self, interval_s: float) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            self._scrape(DURING)
            due = max(due + interval_s, time.monotonic())
            self._over.wait(due - time.monotonic())

    def _scrape(self, phase: str) -> bool:
        """Read once; whether there was something."""
        telemetry = self._engine.telemetry
        if telemetry is None or (self.trouble is not None and phase != BEFORE):
            return False
        samples: list[Sample] = []
        for place in self._places:
            found, reply = place.read()
            if not found:  # sums over some of several would be wrong
                self.missed += 1
                if phase == BEFORE:
                    said = f"answered {reply.status}" if reply.status else "did not answer"
                    needs = f": start it with {telemetry.needs}" if telemetry.needs else ""
                    where = f" at {place.instance}" if place.instance else ""
                    self.trouble = (
                        f"{self._engine.label}'s {place.path}{where} {said}, without counters{needs}"
                    )
                return False
            samples += found
        if phase == DURING:
            samples = _meaningful(telemetry, samples)
        self._read.append((time.monotonic_ns(), phase, samples))
        return True

    def _rows(self) -> list[Row]:
        zero_ns = self._zero_ns
        if zero_ns is None:
            zero_ns = self._read[0][0] if self._read else 0
        return [
            Row((at_ns - zero_ns) // 1000, phase, sample.name, _public(sample).key, sample.value)
            for at_ns, phase, samples in self._read
            for sample in samples
            if not sample.name.endswith("_created")  # times, as counters have them
        ]


class _Place:
    """Where counters are read; `instance` goes as a label into each of them, as Prometheus does it, where there are several."""

    def __init__(self, ask: Ask, path: str, instance: str) -> None:
        self._ask, self.path, self.instance = ask, path, instance

    def read(self) -> tuple[list[Sample], Reply]:
        """All its samples, none where there are none to be had; and what it answered."""
        reply = self._ask("GET", self.path, None)
        if reply.status in (301, 302, 307, 308) and not self.path.endswith("/"):  # as mounted apps send
            self.path += "/"
            reply = self._ask("GET", self.path, None)
        samples = exposition.parse(reply.body.decode("utf-8", "replace")) if reply.ok else []
        if self.instance:
            more = ("instance", self.instance)
            samples = [one._replace(labels=tuple(sorted((*one.labels, more)))) for one in samples]
        return samples, reply


def _public(sample: Sample) -> Sample:
    return sample._replace(labels=tuple(pair for pair in sample.labels if pair[0] not in _PRIVATE))


def _meaningful(telemetry: Telemetry, samples: Iterable[Sample]) -> list[Sample]:
    names = {series.name for choices in telemetry.series.values() for series in choices}
    return [sample for sample in samples if sample.name in names]


def _by_meaning(telemetry: Telemetry, samples: Sequence[Sample]) -> dict[str, float]:
    chosen = exposition.present(telemetry.series, samples)
    return {
        meaning: (exposition.mean if meaning in SHARES else exposition.total)(series, samples)
        for meaning, series in chosen.items()
    }


def write(run: Run, rows: Sequence[Row]) -> None:
    """scrapes.parquet of a run; none where there are no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if rows:
        columns = dict(zip(Row._fields, map(list, zip(*rows, strict=True)), strict=True))
        table = pa.Table.from_pydict(columns, schema=schema.arrow(schema.RESULT_SCRAPES))
        pq.write_table(table, run.path / SCRAPES, compression="zstd")


def read(run: Run) -> list[Row]:
    """The rows of scrapes.parquet; none where there is no such file."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(run.path / SCRAPES)
    except FileNotFoundError:
        return []
    return [Row(*values) for values in zip(*(column.to_pylist() for column in table.columns), strict=True)]


# ---- what the counters say


class Counted(NamedTuple):
    """What an engine counted during a run, by meaning."""

    deltas: dict[str, float]  # of counters
    gauges: dict[str, dict[str, float]]  # mean and max of readings during the run
    fell: tuple[str, ...]  # counters that fell: the server was started anew, or its cache was emptied
    hit_rate: float | None  # cached tokens to prompt tokens


def counted(engine: Engine, rows: Sequence[Row]) -> Counted:
    """Differences of counters from before to after, and what gauges showed in between.

    A counter that is not there before its first count was 0, if the server was asked.
    """
    telemetry = engine.telemetry
    first, last = _samples(rows, BEFORE), _samples(rows, AFTER)
    if telemetry is None or not last:
        return Counted({}, {}, (), None)
    deltas, fell = {}, []
    for meaning, series in exposition.present(telemetry.series, last).items():
        if meaning in GAUGES or not first:
            continue
        delta = exposition.total(series, last) - exposition.total(series, first)
        if delta < 0:
            fell.append(series.name)
        else:
            deltas[meaning] = delta
    if telemetry.prompt_excludes_cached and "prompt_tokens" in deltas:
        cached = deltas.get("cached_tokens")
        if cached is None:  # part of the prompts is missing, and how much is not known
            del deltas["prompt_tokens"]
        else:
            deltas["prompt_tokens"] += cached
    prompts, cached = deltas.get("prompt_tokens"), deltas.get("cached_tokens")
    rate = cached / prompts if prompts and cached is not None else None
    return Counted(deltas, _gauges(telemetry, rows), tuple(fell), rate)


def _samples(rows: Iterable[Row], phase: str) -> list[Sample]:
    return [
        Sample(row.name, exposition.labels_of(row.labels), row.value) for row in rows if row.phase == phase
    ]


def _gauges(telemetry: Telemetry, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    readings: dict[int, list[Row]] = {}
    for row in rows:
        if row.phase == DURING:
            readings.setdefault(row.at_us, []).append(row)
    seen: dict[str, list[float]] = {}
    for at in readings.values():
        for meaning, value in _by_meaning(telemetry, _samples(at, DURING)).items():
            if meaning in GAUGES:
                seen.setdefault(meaning, []).append(value)
    return {
        meaning: {"mean": sum(values) / len(values), "max": max(values), "readings": len(values)}
        for meaning, values in seen.items()
    }


# ---- held against what the requests were told

_CHECKS = (  # what, column of the requests, meaning of the counter
    ("prompt tokens", "input_tokens", "prompt_tokens"),
    ("cached tokens", "cached_tokens", "cached_tokens"),
    ("generated tokens", "output_tokens", "generated"),
    ("tokens looked up", "input_tokens", "queries"),
    ("tokens found", "cached_tokens", "hits"),
)


def reconcile(engine: Engine, rows: Sequence[Row], requests: pl.DataFrame) -> list[dict[str, Any]]:
    """What the requests of a run were told, summed, beside the engine's counters.

    Each: `what`, `client`, `server`, `agrees` and `note`. `agrees` is null where the two cannot be compared: one of them is
    not there, or requests that did not end well may or may not have been counted.
    """
    import polars as pl

    found = counted(engine, rows)
    sent = requests.filter(pl.col("sent_us").is_not_null())
    ok = sent.filter(pl.col("outcome").cast(pl.String) == "ok")
    troubled = len(sent) - len(ok) + int(sent["attempt"].sum() or 0)
    checks = []
    for what, column, meaning in _CHECKS:
        if meaning in ("queries", "hits") and meaning not in found.deltas:
            continue  # only some engines have them
        # our own count of tokens is no word of the engine
        told = (
            sent.filter(pl.col("tokens_source").cast(pl.String) == "usage")
            if column != "cached_tokens"
            else sent
        )
        values = told[column].drop_nulls()
        client = int(values.cast(pl.Int64).sum()) if len(values) else None
        silent = len(ok) - len(told.filter(pl.col("outcome").cast(pl.String) == "ok")[column].drop_nulls())
        checks.append(
            _check(engine, found, what, client, found.deltas.get(meaning), silent, len(ok), troubled, meaning)
        )
    checks.append(
        _check(
            engine, found, "requests", len(ok), found.deltas.get("requests"), 0, len(ok), troubled, "requests"
        )
    )
    return checks


def _check(
    engine: Engine,
    found: Counted,
    what: str,
    client: int | None,
    server: float | None,
    silent: int,
    of: int,
    troubled: int,
    meaning: str,
) -> dict[str, Any]:
    agrees, note = None, None
    if server is None:
        note = _no_counter(engine, found, meaning)
    elif client is None:
        needs = f"; start it with {engine.cached_needs}" if engine.cached_needs and "cached" in what else ""
        note = f"no request was told its {what}{needs}"
    elif silent and client <= server:
        note = f"{silent} of {of} requests were not told their {what}"
    elif client == server:
        agrees = True
    elif troubled and client < server:
        note = f"{troubled} attempts did not end well, and the engine may have counted them"
    else:
        agrees, note = False, _why(found, client, server, meaning)
    return {
        "what": what,
        "client": client,
        "server": None if server is None else round(server),
        "agrees": agrees,
        "note": note,
    }


def _no_counter(engine: Engine, found: Counted, meaning: str) -> str:
    telemetry = engine.telemetry
    if telemetry is None or meaning not in telemetry.series:
        return f"{engine.label} does not count them"
    names = [series.name for series in telemetry.series[meaning]]
    fell = [name for name in names if name in found.fell]
    if fell:
        return f"{fell[0]} fell during the run: the server was started anew, or its cache was emptied"
    needs = f"; it needs {telemetry.needs}" if telemetry.needs else ""
    return f"{names[0]} was not there{needs}"


def _why(found: Counted, client: int, server: float, meaning: str) -> str:
    if client > server:
        return "the engine counted less than it told the requests: its counters lag, or the requests went elsewhere"
    preempted = found.deltas.get("preemptions")
    if preempted and meaning != "requests":
        return f"{preempted:.0f} requests lost their memory and were computed again"
    return "the engine counted more than it told the requests: something else uses it, or it computes requests again"
