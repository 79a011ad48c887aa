"""GPUs as nvidia-smi tells of them: a program of that name that answers as it does, one that fails, and none."""

from __future__ import annotations

import time

import polars as pl
import pytest

from traceprof import schema
from traceprof.replay import gpu
from traceprof.replay.gpu import Row, Watch
from traceprof.results import new_run, write_manifest

FACTS = (
    "0, NVIDIA H100 80GB HBM3, 550.54.15, 81559, 700.00\n1, NVIDIA H100 80GB HBM3, 550.54.15, 81559, [N/A]\n"
)
SAMPLES = "0, 97, 70123, 612.34\n1, [Not Supported], 4, [N/A]\n"


@pytest.fixture
def smi(tmp_path):
    """Writes a program; it says its arguments into `asked`, and writes into `loops` as long as it runs."""

    def write(facts=FACTS, samples=SAMPLES, code=0):
        path = tmp_path / "nvidia-smi"
        path.write_text(
            f"""#!/bin/sh
echo "$*" >> {tmp_path}/asked
case "$*" in
*--loop-ms=*) while true; do printf '{samples}'; echo x >> {tmp_path}/loops; sleep 0.05; done;;
*) printf '{facts}'; exit {code};;
esac
"""
        )
        path.chmod(0o755)
        return str(path)

    return write


def watched(command, until=4):
    """Facts and rows of a watch that has seen some lines."""
    watch = Watch(0.1, command)
    watch.start(time.monotonic_ns())
    end = time.monotonic() + 20
    while watch._process is not None and len(watch._rows) < until and time.monotonic() < end:
        time.sleep(0.01)
    return watch.stop()


def test_facts_and_samples_are_what_the_program_says(smi, tmp_path):
    """Shares, bytes and watts; what a device does not tell is null."""
    facts, rows = watched(smi())
    memory = 81559 << 20
    assert facts["driver"] == "550.54.15" and facts["why"] is None and facts["samples"] == len(rows) >= 4
    assert facts["gpus"] == [
        {"gpu": 0, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": memory, "power_limit_w": 700.0},
        {"gpu": 1, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": memory, "power_limit_w": None},
    ]
    assert {row[1:] for row in rows} == {(0, 0.97, 70123 << 20, 612.34), (1, None, 4 << 20, None)}
    assert [row.at_us for row in rows] == sorted(row.at_us for row in rows) and rows[0].at_us >= 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--loop-ms=100" in asked[1] and "--query-gpu=index,utilization.gpu" in asked[1]


def test_nothing_is_left_running(smi, tmp_path):
    """The program ends with the watch, and a second stop is none."""
    watch = Watch(0.1, smi())
    watch.start()
    while not (tmp_path / "loops").exists():
        time.sleep(0.01)
    first = watch.stop()
    size = (tmp_path / "loops").stat().st_size
    time.sleep(0.3)
    assert (tmp_path / "loops").stat().st_size == size
    assert watch.stop() == first


def test_without_a_gpu_that_is_said(smi):
    """No program, one that fails, one that lists nothing: no rows, and why."""
    assert watched("nvidia-smi-that-is-not-here") == (
        {"gpus": [], "why": "there is no nvidia-smi-that-is-not-here on this machine", "samples": 0},
        [],
    )
    facts, rows = watched(smi(facts="NVIDIA-SMI has failed", code=9))
    assert (facts["gpus"], rows) == ([], []) and "ended with 9" in facts["why"]
    facts, rows = watched(smi(facts="no devices were found"))
    assert (facts["gpus"], rows) == ([], []) and "lists no GPU" in facts["why"]


def test_lines_that_are_none_are_left_out(smi):
    """Warnings between samples, and a last line that was cut."""
    _, rows = watched(smi(samples="Warning: x\n" + SAMPLES + "0, 9"), until=9)
    assert {row.gpu for row in rows} <= {0, 1} and all(row.memory_bytes for row in rows)


def test_rows_are_written_with_the_columns_of_the_schema(tmp_path):
    """gpu.parquet; none without rows."""
    run = new_run(write_manifest(tmp_path / "results", {}), 0, "a")
    gpu.write(run, [])
    assert not (run.path / "gpu.parquet").exists()
    gpu.write(run, [Row(5, 0, 0.5, 1 << 30, None)])
    frame = pl.read_parquet(run.path / "gpu.parquet")
    assert frame.columns == [column.name for column in schema.RESULT_GPU]
    assert frame.row(0) == (5, 0, 0.5, 1 << 30, None)
