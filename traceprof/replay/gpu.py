"""The GPUs of this machine, as nvidia-smi tells: what they are, and memory, power and utilization over time.

They are the engine's only where it runs on this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from traceprof import schema
from traceprof.results import Run

GPU = "gpu.parquet"
MIB = 1 << 20
_FACTS = ("index", "name", "driver_version", "memory.total", "power.limit")
_SAMPLED = ("index", "utilization.gpu", "memory.used", "power.draw")
_ASK_S = 20.0  # longest wait for one answer


class Row(NamedTuple):
    """One row of `schema.RESULT_GPU`."""

    at_us: int
    gpu: int
    utilization: float | None
    memory_bytes: int | None
    power_w: float | None


class Watch:
    """`start()`, then `stop()`, which gives facts and rows; where there is no GPU to ask, the facts say so."""

    def __init__(self, interval_s: float = 1.0, command: str = "nvidia-smi") -> None:
        self._interval_ms = max(100, round(1000 * interval_s))
        self._command = shutil.which(command)
        self._facts: dict[str, Any] = {"gpus": [], "why": f"there is no {command} on this machine"}
        self._rows: list[tuple[int, str]] = []  # ns, line
        self._zero_ns = 0
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def start(self, zero_ns: int | None = None) -> None:
        """Begin to sample; `zero_ns` is the run's start on the monotonic clock, now if it is not given."""
        self._zero_ns = time.monotonic_ns() if zero_ns is None else zero_ns
        if self._command is None:
            return
        self._facts = _facts(self._command)
        if not self._facts["gpus"]:
            return
        self._process = subprocess.Popen(
            [self._command, _query(_SAMPLED), "--format=csv,noheader,nounits", f"--loop-ms={self._interval_ms}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace",
        )  # fmt: skip
        assert self._process.stdout is not None
        self._thread = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._rows.append((time.monotonic_ns(), line))

    def stop(self) -> tuple[dict[str, Any], list[Row]]:
        """End, and give what was seen."""
        if self._process is not None and self._thread is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._thread.join(5)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        rows = [row for at_ns, line in self._rows if (row := _row((at_ns - self._zero_ns) // 1000, line))]
        return {**self._facts, "samples": len(rows)}, rows


def _query(fields: Sequence[str]) -> str:
    return f"--query-gpu={','.join(fields)}"


def _facts(command: str) -> dict[str, Any]:
    try:
        told = subprocess.run(
            [command, _query(_FACTS), "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_ASK_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as bad:
        return {"gpus": [], "why": f"{command} failed: {type(bad).__name__}"}
    if told.returncode:
        return {"gpus": [], "why": f"{command} ended with {told.returncode}: it sees no GPU"}
    gpus, driver = [], None
    for line in told.stdout.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) != len(_FACTS) or not words[0].isdigit():
            continue
        driver = words[2]
        memory = _number(words[3])
        gpus.append(
            {
                "gpu": int(words[0]),
                "name": words[1],
                "memory_bytes": None if memory is None else round(memory * MIB),
                "power_limit_w": _number(words[4]),
            }
        )
    why = None if gpus else f"{command} lists no GPU"
    return {"gpus": gpus, "driver": driver, "why": why}


def _row(at_us: int, line: str) -> Row | None:
    """A line of samples; None where it is none, as the last one, which may be cut."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(_SAMPLED) or not words[0].isdigit() or not line.endswith("\n"):
        return None
    busy, memory = _number(words[1]), _number(words[2])
    return Row(
        at_us,
        int(words[0]),
        None if busy is None else busy / 100,
        None if memory is None else round(memory * MIB),
        _number(words[3]),
    )


def _number(word: str) -> float | None:
    """A number; None for [N/A] and [Not Supported]."""
    try:
        return float(word)
    except ValueError:
        return None


def write(run: Run, rows: Sequence[Row]) -> None:
    """gpu.parquet of a run; none where there are no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if rows:
        columns = dict(zip(Row._fields, map(list, zip(*rows, strict=True)), strict=True))
        table = pa.Table.from_pydict(columns, schema=schema.arrow(schema.RESULT_GPU))
        pq.write_table(table, run.path / GPU, compression="zstd")
