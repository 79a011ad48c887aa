"""Killed runs: `--resume` goes on where complete parts end, and the trace is the one of an undisturbed run."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import jsonl, pair, rows, whole

from traceprof.trace import Trace

# an ingest with small chunks and parts; argument 4 is the number of chunks after whose start it is killed
SCRIPT = """
import os, sys, signal
from traceprof import ingest as module, runs
from traceprof.runs import Options
if __name__ == "__main__":
    log, out, jobs, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    read = module.read_chunk
    seen = []
    def counted(folder, segments, options):
        seen.append((folder / "run.npz").exists())
        if len(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(folder, segments, options)
    if jobs == 1:
        module.read_chunk = counted
    module.WORTH_WORKERS = 0
    options = Options(resume="fresh" not in sys.argv, jobs=jobs, chunk_bytes=150_000, part_bytes=400_000)
    module.ingest([log], out, options)
    print(len(seen), sum(seen))
"""


def log(count: int) -> bytes:
    """Requests out of order, some twice, and lines that are no request."""
    draw = random.Random(7)
    lines: list[Any] = []
    for _ in range(count):
        n = draw.randrange(count)
        words = " ".join(str(draw.randrange(10**6)) for _ in range(150))
        lines.append(pair(n, request={"model": "m", "messages": [{"role": "user", "content": words}]}))
        if n % 50 == 0:
            lines.append(b'{"cut": ')
    return jsonl(lines)


def run(
    tmp_path: Path, out: str, jobs: int, last: int = 0, *words: str, limit: float = 120
) -> tuple[int | None, str]:
    """(exit code, or None when it was killed after `limit` seconds; what it printed)."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    asked = [sys.executable, script, tmp_path / "log.jsonl", tmp_path / out, str(jobs), str(last), *words]
    try:
        done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:  # `run` has sent SIGKILL
        return None, ""
    return done.returncode, done.stdout


def everything(path: Path) -> dict[str, Any]:
    """All that a trace holds but the moment it was made."""
    trace = whole(Trace(path))
    kinds = {kind: rows(trace, kind) for kind in ("requests", "content", "rejects")}
    parts = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*"))]
    return {
        **kinds,
        "parts": parts,
        "manifest": {k: v for k, v in trace.manifest.items() if k != "created_at"},
    }


def left(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob(".*.partial"))


def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    """20 times SIGKILL, wherever it strikes; then the trace is what it would have been, and nothing lies about."""
    (tmp_path / "log.jsonl").write_bytes(log(4000))
    begun = time.monotonic()
    assert run(tmp_path, "undisturbed", 2)[0] == 0
    took = time.monotonic() - begun
    expected = everything(tmp_path / "undisturbed")
    assert expected["manifest"]["requests"] > 2000 and len(expected["parts"]) > 12
    draw = random.Random(20)
    kills = struck = 0
    while kills < 20:
        code, _ = run(tmp_path, "trace", 2, limit=draw.uniform(0.1, 1.0) * took)
        if code is None:
            kills += 1
            struck += bool(left(tmp_path))
            continue
        assert code == 0
        assert everything(tmp_path / "trace") == expected and not left(tmp_path)
        shutil.rmtree(tmp_path / "trace")
    assert run(tmp_path, "trace", 2)[0] == 0
    assert everything(tmp_path / "trace") == expected and not left(tmp_path)
    assert struck >= 5  # not all of them before the work began


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    """Chunks that were finished are taken as they are; without --resume, or of another log, they are not."""
    (tmp_path / "log.jsonl").write_bytes(log(1500))
    assert run(tmp_path, "trace", 1, 5)[0] == -signal.SIGKILL
    (stage,) = left(tmp_path)
    assert sorted(p.parent.name for p in stage.rglob("run.npz")) == [f"{i:06d}" for i in range(4)]
    code, said = run(tmp_path, "trace", 1)
    total, reused = map(int, said.split())
    assert code == 0 and reused == 4 and total > 6
    for words in ((), ("fresh",)):
        assert run(tmp_path, "again", 1, 5)[0] == -signal.SIGKILL
        if not words:
            with (tmp_path / "log.jsonl").open("ab") as file:
                file.write(jsonl([pair(9999)]))
        code, said = run(tmp_path, "again", 1, 0, *words)
        assert code == 0 and said.split()[1] == "0" and not left(tmp_path)


def test_resume_asks_for_a_log_that_can_be_read_twice(tmp_path: Path, command: Any) -> None:
    """stdin is gone; and with nothing to go on with, --resume just begins."""
    ran = command("ingest", "-", "-o", tmp_path / "t", "--resume")
    assert ran.code == 2 and "stdin" in ran.error()
    (tmp_path / "log.jsonl").write_bytes(jsonl([pair()]))
    ran = command("ingest", tmp_path / "log.jsonl", "-o", tmp_path / "t", "--resume", "--json")
    assert ran.code == 0 and json.loads(ran.out)["requests"] == 1
