"""What `traceprof run` costs on a chat log: time, cores, memory, beside `orjson.loads` of the same lines on one core.

    python -m benchmarks.bench_run                    1,000 MB of log
    python -m benchmarks.bench_run --small            30 MB, a smoke run
    python -m benchmarks.bench_run --steps --runs 3   each step by itself as well; medians of three

The log comes from make_log.py and stays in --work for the next time; it is in the page cache when it is read. A run on a
tiny log goes first and is not counted, so that the kernels are compiled. CPU is user + system time of all processes.
Memory is the highest sum over all processes at one moment, sampled every 50 ms: of PSS, which counts a shared page
once, where the system tells it, else of RSS. The limit is parsing alone: no tool that reads the log can be faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

SAMPLE_S = 0.05
TINY_MB = 1.0
MAKE_LOG = Path(__file__).with_name("make_log.py")
TRACEPROF = Path(sys.executable).with_name("traceprof")


class Cost(NamedTuple):
    """What a command took, its child processes included."""

    wall_s: float
    cpu_s: float
    peak_bytes: float  # nan where the system has no /proc


class CommandError(Exception):
    """A command did not end well; the text is the last thing that it said."""


def measure(
    command: Sequence[str | Path],
    *,
    said: Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    limit_s: float | None = None,
) -> Cost:
    """Run a command with its output in the files `said`.out and `said`.err; raises CommandError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with said.with_suffix(".out").open("wb") as out, said.with_suffix(".err").open("wb") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=os.environ | (env or {}),
            start_new_session=True,  # its processes are known by their session
        )
        with _sampled(process.pid) as peak:
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise CommandError(f"still running after {limit_s:.0f} s") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise CommandError(_last_words(said, status))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, peak[0])


def _last_words(said: Path, status: int) -> str:
    for suffix in (".err", ".out"):
        lines = said.with_suffix(suffix).read_text(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        if words:
            return f"exit {status}: {words[-1][:150]}"
    return f"exit {status}"


@contextlib.contextmanager
def _sampled(session: int) -> Iterator[list[float]]:
    """Watch the memory of a session's processes; the list's only entry is the highest sum so far."""
    peak = [0.0 if Path("/proc/self/stat").exists() else float("nan")]
    done = threading.Event()

    def watch() -> None:
        pause = 0.0
        while not done.wait(pause):
            began = time.perf_counter()
            peak[0] = max(peak[0], sum(map(_memory, _members(session))))
            # reading PSS walks the page tables: never more than a twentieth of a core goes there
            pause = max(SAMPLE_S, 20 * (time.perf_counter() - began))

    watcher = threading.Thread(target=watch, daemon=True)
    if peak[0] == 0.0:
        watcher.start()
    try:
        yield peak
    finally:
        done.set()
        if watcher.is_alive():
            watcher.join()


def _members(session: int) -> Iterator[Path]:
    """/proc folders of the processes of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session:  # state, parent, group, session
                yield folder


def _memory(folder: Path) -> int:
    """PSS of a process in bytes, its RSS where PSS may not be read, 0 when it has just ended."""
    try:
        for line in (folder / "smaps_rollup").read_bytes().split(b"\n"):
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    with contextlib.suppress(OSError):
        return int((folder / "statm").read_bytes().split()[1]) * resource.getpagesize()
    return 0


def together(costs: Sequence[Cost]) -> Cost:
    """Of commands that ran one after the other."""
    return Cost(sum(c.wall_s for c in costs), sum(c.cpu_s for c in costs), max(c.peak_bytes for c in costs))


def median(costs: Sequence[Cost]) -> Cost:
    """Column by column.  Example: (1, 5, 7), (2, 4, 7), (3, 3, 7) -> (2, 4, 7)"""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def chat_log(work: Path, mb: float) -> Path:
    """The log of that size, made when it is not there yet."""
    path = work / f"chat-{mb:g}mb.jsonl"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        subprocess.run(
            [sys.executable, MAKE_LOG, part, "--mb", str(mb)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        part.rename(path)
    return path


def parse_alone(log: Path) -> float:
    """CPU seconds of `orjson.loads` over all lines of a log, reading not counted."""
    spent = 0.0
    with log.open("rb") as source:
        while lines := source.readlines(16 << 20):
            began = time.thread_time()
            for line in lines:
                orjson.loads(line)
            spent += time.thread_time() - began
    return spent


def steps_of(log: Path, out: Path) -> dict[str, list[str | Path]]:
    """The four commands that `traceprof run` is made of."""
    trace, profile = out / "trace", out / "profile"
    return {
        "ingest": [TRACEPROF, "ingest", log, "-o", trace, "-q"],
        "tokenize": [TRACEPROF, "tokenize", trace, "-q"],
        "profile": [TRACEPROF, "profile", trace, "-o", profile, "-q"],
        "report": [TRACEPROF, "report", profile, "-o", out / "report.html"],
    }


def load_average() -> str:
    """How busy the machine is, for the reader to judge by."""
    loads = " ".join(f"{x:.2f}" for x in os.getloadavg())
    return f"load {loads} on {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, default=1000, help="size of the log (1000)")
    parser.add_argument("--small", action="store_true", help="30 MB")
    parser.add_argument(
        "--steps", action="store_true", help="also ingest, tokenize, profile, report one by one"
    )
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="medians of N runs (1)")
    parser.add_argument("--work", type=Path, default=Path("out/bench"), help="folder for logs and results")
    options = parser.parse_args()
    mb = 30.0 if options.small else options.mb

    log = chat_log(options.work, mb)
    tiny = chat_log(options.work, TINY_MB)
    warm = options.work / "run-tiny"
    measure([TRACEPROF, "run", tiny, "-o", warm, "-q"], said=options.work / "warm")
    print(f"kernels compiled by a run on {TINY_MB:g} MB, not counted; {load_average()}")
    fixed = measure([TRACEPROF, "run", tiny, "-o", warm, "-q"], said=options.work / "warm")

    out = options.work / "run"
    commands: dict[str, list[str | Path]] = {"run": [TRACEPROF, "run", log, "-o", out, "-q"]}
    if options.steps:
        commands |= steps_of(log, options.work / "steps")
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    parsing: list[float] = []
    for _ in range(options.runs):
        parsing.append(parse_alone(log))
        for name, command in commands.items():
            costs[name].append(measure(command, said=options.work / name))
    show(log, out, {name: median(found) for name, found in costs.items()}, statistics.median(parsing))
    print(
        f"a run on {TINY_MB:g} MB, all but fixed cost: {fixed.wall_s:.2f} s, {fixed.cpu_s:.2f} CPU s, {fixed.peak_bytes / 1e6:,.0f} MB"
    )
    print(f"medians of {options.runs}; {load_average()}")


def show(log: Path, out: Path, costs: dict[str, Cost], parsing_s: float) -> None:
    """The table."""
    mb = log.stat().st_size / 1e6
    profile = json.loads((out / "profile" / "profile.json").read_bytes())
    tokens = profile["tokens"]["input"] + profile["tokens"]["output"]
    print(f"{mb:,.0f} MB, {profile['trace']['requests']:,} requests, {tokens / 1e6:,.1f} M tokens")
    print(
        f"{'step':<14}{'wall s':>8}{'CPU s':>8}{'MB/s':>8}{'MB per CPU s':>14}{'of orjson':>11}{'peak MB':>9}"
    )
    limit = mb / parsing_s
    for name, cost in costs.items():
        print(
            f"{name:<14}{cost.wall_s:>8.2f}{cost.cpu_s:>8.2f}{mb / cost.wall_s:>8.1f}{mb / cost.cpu_s:>14.1f}"
            f"{mb / cost.cpu_s / limit:>11.1%}{cost.peak_bytes / 1e6:>9,.0f}"
        )
    print(
        f"{'orjson.loads':<14}{parsing_s:>8.2f}{parsing_s:>8.2f}{limit:>8.1f}{limit:>14.1f}{1:>11.1%}{'':>9}"
    )


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(f"Error: {error}")
