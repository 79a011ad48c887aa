"""Small workloads, and runs of them, for the tests of the replay client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from traceprof import schema
from traceprof.engines import engine
from traceprof.replay.run import replay_run
from traceprof.replay.settings import Options
from traceprof.results import Run
from traceprof.workloads import Workload, write_workload

OPENAI = engine("openai")


def row(index: int, at_s: float = 0.0, *, prompt: str = "hello", n: int = 3, **more: Any) -> dict[str, Any]:
    """A request of a workload: a prompt as text, `n` tokens to be generated."""
    found = {column.name: None for column in schema.WORKLOAD} | {
        "index": index, "request_id": f"r{index}", "session_id": f"s{index}", "turn_index": 0, "arrival_us": round(at_s * 1e6),
        "warmup": False, "model": "m", "endpoint": "completions", "prompt_text": prompt, "input_tokens": 1, "output_tokens": n,
    }  # fmt: skip
    return found | more


def turns(session: str, first: int, at_s: list[float], think_s: float, **more: Any) -> list[dict[str, Any]]:
    """A session: rows whose indices follow each other, each the parent of the next."""
    return [
        row(
            first + i, at, session_id=session, turn_index=i, parent=first + i - 1 if i else None,
            think_us=round(think_s * 1e6) if i else None, **more,
        )
        for i, at in enumerate(at_s)
    ]  # fmt: skip


def chat(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What makes a row a chat."""
    return {
        "endpoint": "chat",
        "prompt_text": None,
        "messages_json": orjson.dumps(messages).decode(),
        **more,
    }


def workload(path: Path, rows: list[dict[str, Any]], **meta: Any) -> Workload:
    """A workload file of rows."""
    table = pa.Table.from_pylist(rows, schema=schema.arrow(schema.WORKLOAD))
    return write_workload(path / "w.parquet", table.to_batches(), {"variant": "asis", **meta})


def new_run(path: Path, name: str = "000-e") -> Run:
    """A folder of a run."""
    run = Run(path / "runs" / name)
    run.path.mkdir(parents=True, exist_ok=True)
    return run


def send(
    path: Path,
    rows: list[dict[str, Any]],
    url: str,
    *,
    engine: Any = OPENAI,
    run: Run | None = None,
    options: Options | None = None,
    resume: bool = False,
    **how: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Send rows; what run.json holds and the requests' rows."""
    run = run or new_run(path)
    told = replay_run(workload(path, rows), engine, url, options or Options(**how), run, resume=resume)
    return told, run.requests().to_dicts()
