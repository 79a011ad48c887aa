"""Random and real traces through an engine's own cache code, in the engine's own interpreter.

A script of this folder reads one JSON object a line, {"requests": [...], options}, and answers with one, {"hits": [...], ...}. It
drives the engine's cache with `tests/drive.py`, the very code that drives our slow twins.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import servers

from tests import lab

HERE = Path(__file__).parent


def answers(
    name: str, tasks: Iterable[tuple[list[lab.Request], dict[str, Any]]], **variables: str
) -> list[dict[str, Any]]:
    """What NAME_oracle.py says of each (requests, options); the test fails with its last words when it dies."""
    asked = "".join(json.dumps({"requests": requests, **options}) + "\n" for requests, options in tasks)
    python = servers.python(name)
    done = subprocess.run(
        [python, str(HERE / f"{name}_oracle.py")], input=asked, capture_output=True, text=True, timeout=1500, check=False,
        env=servers.environment(PYTHONPATH=str(HERE.parent), **variables),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def long_traces() -> list[tuple[str, list[lab.Request], int]]:
    """(name, requests, tokens that one symbol stands for): one generated, and what TRACEPROF_DATA names.

    Block hashes become small numbers, so an engine sees them with blocks of one token: that is what it would do with
    blocks of their size, but for the last, partial ones.
    """
    shape = {"size": 300, "symbols": 50, "prefix": 200, "tail": 120, "output": 150, "gap": 8, "took": 300}
    found = [("generated", lab.random_requests(np.random.default_rng(5), **shape), 1)]
    folder = os.environ.get("TRACEPROF_DATA")
    if not folder:
        return found
    for file in sorted(Path(folder).glob("mooncake*/*.jsonl")):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()[:4000]]
        requests = [
            lab.Request(
                i, tuple(r["hash_ids"]), (), r["timestamp"] * 1000, 1, 1 + 25_000 * r["output_length"]
            )
            for i, r in enumerate(rows)
        ]
        found.append((file.stem, requests, 512))
    found += [(t.parent.name, _tokens(t), 1) for t in sorted(Path(folder).glob("*/tokens"))]
    return found


def room(requests: list[lab.Request], share: float) -> int:
    """Tokens: a share of all that is distinct in the requests, but enough for the longest."""
    traffic = lab.traffic_of(requests)
    return max(int((traffic.end - traffic.begin).sum() * share), max(r.final for r in requests))


def _tokens(folder: Path, most: int = 400) -> list[lab.Request]:
    """The first requests of a trace's tokens/, eight of them at a time."""
    rows = pl.scan_parquet(str(folder / "*.parquet")).select("input_ids", "output_ids").head(most).collect()
    made = []
    for i, (prompt, output) in enumerate(rows.iter_rows()):
        answer = tuple(output or ())
        took = 8_000_000
        made.append(lab.Request(i, tuple(prompt), answer, i * 1_000_000, took // 3, took))
    return made


def table(rows: list[tuple[Any, ...]]) -> None:
    """Print what was compared, for the record."""
    print(
        "\n| trace | options | requests | input tokens | hits, theirs | hits, ours | requests that differ |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in row) + " |")


def compared(
    label: str, options: str, requests: list[lab.Request], theirs: list[int], ours: Any
) -> tuple[str, str, int, int, int, int, int]:
    """One row of `table`."""
    theirs_, ours_ = np.array(theirs), np.asarray(ours)
    return (
        label, options, len(requests), sum(len(r.prompt) for r in requests), int(theirs_.clip(0).sum()),
        int(ours_.clip(0).sum()), int((theirs_ != ours_).sum()),
    )  # fmt: skip
