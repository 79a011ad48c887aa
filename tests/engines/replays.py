"""Whole replays against real engines: a sample trace as workloads, sent by `traceprof replay`, which starts the engine from its recipe.

One request at a time, so that the order in which an engine works is known, every request's cached tokens must be those of the
model of its cache; side by side, at the trace's own times, what an engine counts must be what it told the requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import servers

from traceprof.results import Results, Run

SAMPLE = Path(__file__).parents[2] / "samples" / "chat.jsonl"
ONE_BY_ONE = ("--mode", "closed", "--concurrency", "1", "--speed", "1000", "--no-calibrate")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "2"}


def traceprof(folder: Path, *words: str, **variables: str) -> str:
    """What a command prints; the test fails with its error where it does not end well."""
    done = subprocess.run(
        [sys.executable, "-m", "traceprof.cli.main", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, **OFFLINE, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + logs(folder)
    return done.stdout


def logs(folder: Path) -> str:
    """The ends of what engines said."""
    return "\n".join(log.read_text("utf-8", "replace")[-3000:] for log in folder.rglob("engine.log"))


def workloads(folder: Path) -> dict[str, Path]:
    """The sample under the tiny model's tokenizer: its chats, prompts of words that share as they do, and ones that share nothing."""
    traceprof(folder, "ingest", str(SAMPLE), "-o", "trace", "-q")
    traceprof(folder, "tokenize", "trace", "--tokenizer", str(servers.MODEL), "-q")
    made = {"chat": ("asis",), "shared": ("shared", "--synthesize"), "unique": ("unique",)}
    for name, variant in made.items():
        traceprof(folder, "workload", "trace", "-o", f"{name}.parquet", "-q", "--variant", *variant)
    return {name: folder / f"{name}.parquet" for name in made}


def replayed(folder: Path, names: list[str], *words: str, **variables: str) -> list[Run]:
    """The runs of a replay of workloads by their names."""
    paths = workloads(folder)
    told = traceprof(
        folder, "replay", *(str(paths[name]) for name in names), "-o", "results", "--json", *words, **variables
    )  # fmt: skip
    assert [one["state"] for one in json.loads(told)["runs"]] == ["done"] * len(names), told
    return Results(folder / "results").runs


def report(runs: list[Run], names: list[str]) -> None:
    """Print what was predicted and told."""
    for run, name in zip(runs, names, strict=True):
        told = run.told()
        cache = told["cache"]
        rate = "none" if cache["told_hit_rate"] is None else f"{100 * cache['told_hit_rate']:.2f} %"
        print(
            f"\n{run.name} {name}: told {rate}, predicted {100 * cache['predicted_hit_rate']:.2f} %, {cache['equal_requests']} of "
            f"{cache['told_requests']} requests equal, {told['summary']['outcomes']}"
        )


def all_is_well(run: Run) -> dict[str, Any]:
    """Every request answered, none of its prompt tokens other than planned, its cached tokens as predicted; counters agree."""
    told = run.told()
    requests = run.requests()
    assert told["summary"]["outcomes"] == {"ok": told["requests"]}, logs(run.path)
    assert told["isolation"]["how"] == "restart"
    assert told["server"]["cold_start_s"] > 0
    checks = {check["what"]: check for check in told["counters"]["against_requests"]}
    assert all(check["agrees"] is not False for check in checks.values()), checks
    if told["cache"]["told_requests"]:
        assert told["cache"]["told_requests"] == told["requests"]
        cached, predicted = requests["cached_tokens"].to_list(), requests["predicted_cached_tokens"].to_list()
        assert cached == predicted
        assert told["cache"]["unexplained_tokens"] == 0
    return told


def shared_and_unique(runs: list[Run]) -> None:
    """Two runs: the one hits as predicted, the other not at all."""
    shared, unique = (all_is_well(run) for run in runs)
    assert shared["cache"]["told_hit_rate"] > 0.4
    assert unique["cache"]["told_tokens"] == 0
