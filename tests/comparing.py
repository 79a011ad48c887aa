"""Results whose true differences are known: sessions whose latencies go together, runs that differ by chance, a machine that drifts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tests import replaying
from traceprof import latency, schema
from traceprof.compare.runs import Block, Compared, Contender, Seen
from traceprof.replay.campaign import digest
from traceprof.replay.scenario import Contender as Asked
from traceprof.replay.scenario import Scenario, plan
from traceprof.results import MANIFEST, REQUESTS, RUN, Results, Run, new_run, write_manifest
from traceprof.trace import write_json
from traceprof.workloads import write_workload


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Sessions of several turns that arrive over time, each turn with the prefix of the one before."""

    session: np.ndarray
    turn: np.ndarray
    arrival_s: np.ndarray
    prompt: np.ndarray
    prefix: np.ndarray
    answer: np.ndarray
    own: np.ndarray  # log of how slow each request is, whoever answers

    @property
    def n(self) -> int:
        return len(self.session)


def traffic(seed: int, sessions: int = 40, turns: int = 6) -> Traffic:
    """Turns per session and lengths vary; requests of a session are alike."""
    rng = np.random.default_rng(seed)
    counts = rng.geometric(1 / turns, sessions)
    session = np.repeat(np.arange(sessions), counts)
    turn = np.concatenate([np.arange(c) for c in counts])
    arrival = np.repeat(np.cumsum(rng.exponential(2.0, sessions)), counts) + 5.0 * turn
    order = np.argsort(arrival, kind="stable")
    session, turn, arrival = session[order], turn[order], arrival[order]
    first = np.exp(rng.normal(6, 1, sessions)).astype(int) + 20
    prompt = first[session] * (1 + turn)
    prefix = np.where(turn > 0, first[session] * turn, 0)
    answer = rng.integers(2, 60, len(session))
    own = 0.5 * rng.normal(size=sessions)[session] + 0.3 * rng.normal(size=len(session))
    return Traffic(session, turn, arrival, prompt, prefix, answer, own)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What chance does, as standard deviations of logarithms."""

    run: float = 0.03  # of a whole run
    drift: float = 0.0  # by run, in their order
    stall: float = 0.15  # of stretches of a run that go together
    each: float = 0.1  # of single requests


def noise(of: Traffic, rng: np.random.Generator, machine: Machine, number: int) -> np.ndarray:
    """The logarithm of how much slower each request of one run is than it might be."""
    stretches = rng.normal(size=1 + int(of.arrival_s.max() // 20))
    return (
        machine.run * rng.normal()
        + machine.drift * number
        + machine.stall * stretches[(of.arrival_s // 20).astype(int)]
        + machine.each * rng.standard_t(4, of.n)
    )


def compared(of: Traffic, sides: Mapping[str, Effects], *, repeats: int = 3, order: str = "mirrored", machine: Machine | None = None,
             seed: int = 0) -> Compared:  # fmt: skip
    """The same without files: only what the tests of pairs look at."""
    rng = np.random.default_rng(seed)
    names = list(sides)
    turns = [n for r in range(repeats) for n in (names[::-1] if order == "mirrored" and r % 2 else names)]
    if order == "blocked":
        turns = [n for n in names for _ in range(repeats)]
    made: dict[str, list[Block]] = {name: [] for name in names}
    for number, name in enumerate(turns):
        seen = frame(of, sides[name], noise(of, rng, machine or Machine(), number), rng)
        block = Block(
            Run(Path(f"runs/{number:03}-{name}")), number, len(made[name]), 1.0, of.n, {"state": "done"}
        )
        block.__dict__.update({"told": {"valid": True, "summary": {}}, "seen": Seen.of(seen, of.n)})
        made[name].append(block)
    contenders = tuple(Contender(n, "openai", None, tuple(made[n]), None) for n in names)  # type: ignore[arg-type]
    found = Compared({"requests": of.n, "file": "w"}, contenders, order, 1, "partly-open")
    found.__dict__["sessions"] = of.session, of.arrival_s
    return found


Effects = Mapping[
    str, Any
]  # by engine: log factor of ttft and tpot, a number or one a request; `failed`: share


def frame(of: Traffic, effect: Effects, off: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """What a run's requests saw, `schema.RESULT_REQUESTS`."""
    factor = np.exp(of.own + off)
    ttft_s = 0.2 * factor * np.exp(effect.get("ttft", 0.0))
    tpot_s = 0.02 * np.exp(0.3 * off) * np.exp(effect.get("tpot", 0.0))
    ok = rng.random(of.n) >= effect.get("failed", 0.0)
    answer = np.maximum(2, (of.answer * effect.get("answer", 1.0)).astype(int))
    begin = (of.arrival_s * 1e6).astype(np.int64)
    first = begin + (ttft_s * 1e6).astype(np.int64)
    end = first + (tpot_s * (answer - 1) * 1e6).astype(np.int64)
    columns = {
        "index": np.arange(of.n), "request_id": [f"r{i}" for i in range(of.n)], "session_id": [f"s{s}" for s in of.session],
        "warmup": np.zeros(of.n, bool), "attempt": np.zeros(of.n, int), "final": np.ones(of.n, bool), "scheduled_us": begin,
        "intended_us": begin, "taken_up_us": begin, "sent_us": begin, "first_byte_us": first, "first_token_us": first,
        "last_token_us": end, "end_us": end, "outcome": np.where(ok, "ok", "reset"), "input_tokens": of.prompt, "output_tokens": answer,
        "cached_tokens": of.prefix, "predicted_cached_tokens": of.prefix, "cached_state": ["told"] * of.n, "tokens_source": ["usage"] * of.n,
        "bytes_sent": np.zeros(of.n, int), "bytes_received": np.zeros(of.n, int),
    }  # fmt: skip
    wanted = schema.arrow(schema.RESULT_REQUESTS)
    whole = {f.name: columns.get(f.name, pa.nulls(of.n)) for f in wanted}
    table = pa.table({name: pa.array(value) for name, value in whole.items()})
    found = pl.from_arrow(table.cast(wanted))
    assert isinstance(found, pl.DataFrame)
    return found


def workload(path: Path, of: Traffic, variant: str = "shared") -> Path:
    """Its file."""
    rows = [
        replaying.row(
            i, of.arrival_s[i] - of.arrival_s[0], n=int(of.answer[i]), session_id=f"s{of.session[i]}", turn_index=int(of.turn[i]),
            input_tokens=int(of.prompt[i]), prefix_tokens=int(of.prefix[i]) if variant != "unique" else 0,
        )
        for i in range(of.n)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema.arrow(schema.WORKLOAD))
    return write_workload(path, table.to_batches(), {"variant": variant}).path


def results(
    folder: Path,
    engines: Mapping[str, Effects],
    parts: Sequence[tuple[Path, Traffic, str]],
    *,
    effects: Mapping[tuple[str, str], Effects] | None = None,  # by engine and variant, over `engines`
    repeats: int = 3,
    order: str = "mirrored",
    machine: Machine | None = None,
    seed: int = 0,
    calibration_s: float | None = 0.0005,
    invalid: Sequence[int] = (),
    unexplained: int = 0,
    isolated: bool = True,
    mode: str = "partly-open",
    options: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """A folder as replay writes it, with runs in the order that a scenario gives."""
    rng = np.random.default_rng(seed)
    chance = machine or Machine()
    asked = tuple(Asked(name, replaying.OPENAI, "http://127.0.0.1:1") for name in engines)
    turns = plan(Scenario(Path(), tuple(path for path, _, _ in parts), asked, repeats=repeats, order=order))
    place = {path: n for n, (path, _, _) in enumerate(parts)}
    made: Results = write_manifest(folder, {"workloads": [], "engines": [], "runs": []})
    states = []
    for number, turn in enumerate(turns):
        n = place[turn.workload]
        _, of, variant = parts[n]
        effect = {**engines[turn.engine.name], **(effects or {}).get((turn.engine.name, variant), {})}
        seen = frame(of, effect, noise(of, rng, chance, number), rng)
        run = new_run(made, number, turn.engine.name)
        seen.write_parquet(run.path / REQUESTS)
        bad = number in invalid
        told = {
            "name": turn.engine.name, "engine": {"name": "openai", "label": "a server"}, "valid": not bad,
            "invalid_because": "requests were sent late" if bad else None, "summary": latency.summary(seen),
            "isolation": {"how": "flush", "ok": isolated, "why": None if isolated else "nothing empties it"},
            "server": {"version": "1", "model": "m", "capacity_tokens": 1000, "cold_start_s": 12.0},
            "cache": {"predicted_hit_rate": 0.5, "told_hit_rate": 0.5, "told_tokens": 1000, "unexplained_tokens": unexplained},
        }  # fmt: skip
        write_json(run.path / RUN, told)
        states.append(
            {
                "number": number, "name": turn.engine.name, "workload": n, "repeat": turn.repeat, "warmup": False, "speed": 1.0,
                "state": "done", "held": None, "reasons": [],
            }
        )  # fmt: skip
    write_manifest(
        folder,
        {
            "scenario": {"repeats": repeats, "order": order, "slo": None}, "options": {"mode": mode, **(options or {})},
            "workloads": [
                {"file": str(path), "digest": digest(path), "requests": of.n, "variant": variant, "span_us": int(1e6 * np.ptp(of.arrival_s))}
                for path, of, variant in parts
            ],
            "engines": [{"name": name, "engine": "openai"} for name in engines], "runs": states, "sweep": None,
            "calibration": {"ttft_p99_s": calibration_s, "itl_p99_s": calibration_s}, **manifest,
        },
    )  # fmt: skip
    return folder


def amended(folder: Path, **parts: Any) -> Path:
    """The same results with other parts of their manifest."""
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | parts), "utf-8")
    return folder
