"""What several test files share: the samples, small logs made on the spot, and the command run in and out of process."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

from traceprof import formats
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

# machines are shared and slow at times: no deadline on an example; the gate sees the same examples every time
settings.register_profile("here", deadline=None)
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "here")

SAMPLES = Path(__file__).parent.parent / "samples"
LABELS = [name.replace("_", "-") for name in formats.NAMES]
FORMATS = {  # sample -> its file: FORMAT.EXTENSION, or FORMAT.VARIANT.EXTENSION where a format has several shapes
    path.stem: path.name
    for path in sorted(SAMPLES.iterdir())
    if path.is_file() and path.name.split(".")[0] in LABELS and path.suffix != ".toml"
}


def asked(name: str) -> dict[str, Any]:
    """The options of a sample whose format is read only when asked for; none for the others."""
    label = name.split(".")[0]
    if label == "mapping":
        return {"format": label, "map": SAMPLES / "mapping.toml"}
    return {"format": label} if label in LABELS and hasattr(formats.load(label), "only_when_asked") else {}


def sample_records(name: str) -> list[Any]:
    """The records of a sample, by the standard library alone: JSON values, rows of CSV or Parquet, or lines of text."""
    path = SAMPLES / FORMATS[name]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        found: list[Any] = pq.read_table(path).to_pylist()
        return found
    text = path.read_text("utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    if formats.reads_lines(formats.load(name.split(".")[0])):
        return text.splitlines()
    try:
        whole = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]
    return whole if isinstance(whole, list) else [whole]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite the golden files")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update"))


def jsonl(records: Iterable[Any]) -> bytes:
    """Records as JSON lines; bytes stand for themselves."""
    lines = (r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records)
    return b"".join(line + b"\n" for line in lines)


def pair(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A small OpenAI request and response pair, with some of its top-level fields changed (None takes one away)."""
    record: dict[str, Any] = {
        "timestamp": f"2026-08-21T12:{number // 60:02d}:{number % 60:02d}.250Z",
        "request_id": f"r{number}",
        "latency_ms": 800,
        "status_code": 200,
        "request": {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": f"answer {number}"}}]},
    }
    record.update(changes)
    return {k: v for k, v in record.items() if v is not None}


@pytest.fixture
def ingested(tmp_path: Path) -> Callable[..., Trace]:
    """ingested(log, name=..., **options): the trace of a log given as bytes, as records, or as a path."""
    made = 0

    def make(log: bytes | list[Any] | Path, name: str = "log.jsonl", **options: Any) -> Trace:
        nonlocal made
        made += 1
        if not isinstance(log, Path):
            path = tmp_path / f"in{made}" / name
            path.parent.mkdir()
            path.write_bytes(log if isinstance(log, bytes) else jsonl(log))
            log = path
        return whole(ingest([log], tmp_path / f"trace{made}", Options(**options)))

    return make


def whole(trace: Trace) -> Trace:
    """The trace, after a look at what must hold for every trace."""
    counts = trace.manifest
    requests, content, tokens = (table(trace, kind) for kind in ("requests", "content", "tokens"))
    assert counts["records_in"] == counts["requests"] + counts["rejects"] + counts["skipped"]
    assert counts["requests"] == len(requests) and counts["rejects"] == len(table(trace, "rejects"))
    assert sum(counts["rejects_by_reason"].values()) == counts["rejects"]
    assert sum(counts["skipped_by_reason"].values()) == counts["skipped"]
    assert requests["row_id"].n_unique() == len(requests)
    assert not content.height or content.height == len(requests)
    assert not tokens.height or tokens["request_id"].to_list() == requests["request_id"].to_list()
    assert sorted(p.name for p in trace.path.iterdir()) == sorted(
        ["manifest.json", "requests"]
        + [kind for kind in ("content", "tokens", "rejects") if trace.parts(kind)]
    )
    return trace


def table(trace: Trace, kind: str) -> pl.DataFrame:
    """All rows of one kind, in order; words as plain strings."""
    frame = trace.scan(kind).collect()
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def rows(trace: Trace, kind: str = "requests") -> list[dict[str, Any]]:
    """The rows of one kind as dicts; content and tokens in the order of requests."""
    if kind != "content":
        return table(trace, kind).to_dicts()
    out: list[dict[str, Any]] = []
    for part in trace.parts("content"):
        out.extend(pl.read_parquet(part).sort("row").to_dicts())
    return out


def reasons(trace: Trace) -> dict[str, int]:
    """How many records were rejected, by reason."""
    found: dict[str, int] = trace.manifest["rejects_by_reason"]
    return found


class Ran:
    """What a command left: its exit code, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = self.err.splitlines()
        assert "Traceback" not in self.err and "a bug in traceprof" not in self.err, self.err
        assert len(lines) == 1 and lines[0].startswith("Error: "), self.err
        return lines[0].removeprefix("Error: ")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """command("ingest", LOG, "-o", TRACE): run traceprof in this process."""
    from traceprof.cli.main import main

    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([os.fspath(w) if isinstance(w, Path) else str(w) for w in words])
        seen = capsys.readouterr()
        code = done.value.code
        assert isinstance(code, int)
        return Ran(code, seen.out, seen.err)

    return run


CLI = [sys.executable, "-m", "traceprof.cli.main"]


@pytest.fixture
def process() -> Callable[..., Ran]:
    """process("ingest", LOG, "-o", TRACE, stdin=b""): run traceprof as a process of its own."""

    def run(*words: object, stdin: bytes = b"", timeout: float = 120) -> Ran:
        done = subprocess.run(
            [*CLI, *map(str, words)], input=stdin, capture_output=True, timeout=timeout, check=False
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
