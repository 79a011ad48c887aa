"""What the replay client adds and costs on one core, against a server whose times are known; other clients beside it.

    python -m benchmarks.bench_replay                      200 and 1,000 streams of 50 tokens a second, 20 s each
    python -m benchmarks.bench_replay --grid               all streams' tokens at the same moments, as engines that batch send them
    python -m benchmarks.bench_replay --peers              aiperf and guidellm too, each in an environment of its own under --work
    python -m benchmarks.bench_replay --vllm PYTHON        vllm bench serve too, of the environment of that interpreter
    python -m benchmarks.bench_replay --small              50 streams for 4 s, a smoke run

The limit is limit_client.c, which does nothing but send and receive. The server (known_server.c) has a core of its own, at real-time priority where that is allowed; a client and all its processes
share another. Chats of 100 tokens come at a constant rate, the first token 200 ms after the request has arrived, the others 20 ms
apart, so rate x 2.18 s are under way at once.

    achieved      requests that arrived at the server a second, of those asked for
    bias          TTFT that the client tells minus what the server did, ms: of the means, of the medians, of the 99th percentiles
    CPU a token   user + system of the client's processes while requests were under way, without its start
    MB            highest sum of PSS over the client's processes in the same time
    whole         the same of the whole command, its start and what it computes at its end
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench_peers import BUILT_IN_TOKENIZER, Peer, environment
from benchmarks.bench_run import CommandError, _last_words, _members, _memory, load_average

TTFT_S, GAP_S, TOKENS = 0.2, 0.02, 100
UNDER_WAY_S = TTFT_S + GAP_S * (TOKENS - 1)
SERVER_CORE, CLIENT_CORE = 0, 1
HERE = Path(__file__).parent
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """What a client is asked to send."""

    streams: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.streams / UNDER_WAY_S

    @property
    def requests(self) -> int:
        return int(self.rate * self.seconds)


# -- the server -------------------------------------------------------------------------------------------------------


def compiled(name: str, work: Path) -> Path:
    """The binary of a program beside this one."""
    source, binary = HERE / f"{name}.c", work / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", binary, source], check=True)
    return binary


class Server:
    """One server for one run of a client; once the block is over, what it did."""

    def __init__(self, work: Path, grid: bool) -> None:
        command = [
            compiled("known_server", work),
            str(int(TTFT_S * 1e6)),
            str(int(GAP_S * 1e6)),
            str(TOKENS),
            str(int(grid)),
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, preexec_fn=lambda: _place(SERVER_CORE, True)
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.answers = np.empty((0, 3))  # arrival, first event, last event: seconds of the monotonic clock

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate()
        self.answers = np.array([line.split() for line in said.splitlines()], np.float64).reshape(-1, 3) / 1e9


def _place(core: int, first: bool) -> None:
    """In a new process: its core; before all others on it where that is allowed."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, {core})
    if first:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    else:
        with contextlib.suppress(OSError):  # nice only counts within a session's group
            Path("/proc/self/autogroup").write_text("-20")


# -- a client's cost --------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Of a client's processes; CPU as a series, so that a window can be cut from it."""

    at: list[float]  # seconds of the monotonic clock
    cpu: list[float]  # seconds used until then
    memory: list[tuple[float, int]] = field(default_factory=list)  # (at, bytes)

    def peak_bytes(self, begin: float, end: float) -> int:
        """Most memory within a window."""
        return max((taken for at, taken in self.memory if begin <= at <= end), default=0)

    def between(self, begin: float, end: float) -> float:
        """CPU seconds within a window."""
        return float(np.interp(end, self.at, self.cpu) - np.interp(begin, self.at, self.cpu))


def measured(command: list[Any], said: Path, env: dict[str, str] | None = None, limit_s: float = 600) -> Cost:
    """Run a client on its core."""
    with said.with_suffix(".out").open("wb") as out, said.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            [*map(str, command)], stdout=out, stderr=err, env=os.environ | (env or {}), start_new_session=True,
            preexec_fn=lambda: _place(CLIENT_CORE, False),
        )  # fmt: skip
        with _watched(process.pid) as cost:
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                raise CommandError(f"still running after {limit_s:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status:
        raise CommandError(_last_words(said, status))
    return cost


@contextlib.contextmanager
def _watched(session: int) -> Iterator[Cost]:
    cost = Cost([time.monotonic()], [0.0])
    over = threading.Event()

    def watch() -> None:
        rounds = 0
        while not over.wait(0.1):
            members = list(_members(session))
            cost.at.append(time.monotonic())
            cost.cpu.append(max(cost.cpu[-1], sum(map(_cpu_s, members))))
            if rounds % 5 == 0:
                cost.memory.append((time.monotonic(), sum(map(_memory, members))))
            rounds += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield cost
    finally:
        over.set()
        watcher.join()


def _cpu_s(folder: Path) -> float:
    """Of a process and of its children that have ended."""
    with contextlib.suppress(OSError):
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) * TICK_S
    return 0.0


# -- the clients ------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a client says of a run."""

    ttft_s: np.ndarray
    more: str = ""


def ours(url: str, load: Load, out: Path, work: Path) -> tuple[Cost, Told]:
    """`replay_run` in a process of its own."""
    made = _workload(load, out)
    command = [sys.executable, "-m", "benchmarks.bench_replay", "--as-client", url, made, out]
    cost = measured(command, out / "ours")
    told = json.loads((out / "told.json").read_bytes())
    import polars as pl

    requests = pl.read_parquet(out / "run" / "requests.parquet").filter(pl.col("outcome") == "ok")
    client = told["client"]
    lag = told["summary"]["send_lag"]
    more = (
        f"send lag p99 {1000 * lag['p99_s']:.2f} ms; CPU by its own count {client['cpu_us_per_chunk']:.1f} us a chunk to receive, "
        f"{client['cpu_us_per_chunk_with_clerk']:.1f} with parsing and writing; sending process {client['processes'][0]['memory_bytes'] / 2**20:.0f} MB"
    )
    return cost, Told((requests["first_token_us"] - requests["intended_us"]).to_numpy() / 1e6, more)


def _workload(load: Load, out: Path) -> Path:
    import pyarrow as pa

    from traceprof import schema
    from traceprof.workloads import write_workload

    empty = {column.name: None for column in schema.WORKLOAD}
    rows = [
        empty | {
            "index": i, "request_id": f"r{i}", "turn_index": 0, "arrival_us": round(1e6 * i / load.rate), "warmup": False,
            "model": "known", "endpoint": "chat", "messages_json": '[{"role":"user","content":"hello there"}]', "input_tokens": 2,
            "output_tokens": TOKENS,
        }
        for i in range(load.requests)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema.arrow(schema.WORKLOAD))
    return write_workload(out / "w.parquet", table.to_batches(), {"variant": "asis"}).path


def as_client(url: str, workload: Path, out: Path) -> None:
    """The process that is measured."""
    from traceprof.engines import engine
    from traceprof.replay.run import replay_run
    from traceprof.replay.settings import Options
    from traceprof.results import Run
    from traceprof.workloads import Workload

    run = Run(out / "run")
    run.path.mkdir()
    told = replay_run(Workload(workload), engine("openai"), url, Options(), run)
    (out / "told.json").write_text(json.dumps(told))


def limit(url: str, load: Load, out: Path, work: Path) -> tuple[Cost, Told]:
    """limit_client.c: what the system calls alone cost."""
    command = [compiled("limit_client", work), url.rpartition(":")[2], load.rate, load.requests]
    cost = measured(command, out / "limit")
    return cost, Told(np.loadtxt(out / "limit.out") / 1e9)


def aiperf(url: str, load: Load, out: Path, work: Path) -> tuple[Cost, Told]:
    run = environment(Peer("aiperf==0.13.0", lambda *_: [], lambda _: [], ""), work)
    command = [
        run / "aiperf", "profile", "--model", "known", "--url", url, "--endpoint-type", "chat", "--streaming",
        "--request-rate", load.rate, "--arrival-pattern", "constant", "--request-count", load.requests,
        "--tokenizer", work / "tokenizer", "--synthetic-input-tokens-mean", "8", "--output-tokens-mean", TOKENS,
        "--no-server-metrics", "--no-gpu-telemetry", "--ui", "none", "--artifact-dir", out,
    ]  # fmt: skip
    cost = measured(command, out / "aiperf")
    lines = next(out.rglob("profile_export*.jsonl")).read_text().splitlines()
    times = [json.loads(line)["metrics"]["time_to_first_token"]["value"] for line in lines]
    return cost, Told(np.array(times) / 1e3)


def guidellm(url: str, load: Load, out: Path, work: Path) -> tuple[Cost, Told]:
    run = environment(Peer("guidellm==0.8.1", lambda *_: [], lambda _: [], ""), work)
    command = [
        run / "guidellm", "run", "--backend", f"kind=openai_http,target={url},model=known", "--disable-console-interactive",
        "--profile", f"kind=constant,rate={load.rate}", "--constraint", f"kind=max_requests,count={load.requests}",
        "--tokenizer", json.dumps({"kind": "hf_auto", "model": str(work / "tokenizer")}),
        "--data", f"kind=synthetic_text,prompt_tokens=8,output_tokens={TOKENS}", "--output", f"kind=json,path={out / 'guidellm.json'}",
    ]  # fmt: skip
    cost = measured(command, out / "guidellm", {"HF_HUB_OFFLINE": "1"})
    found = json.loads((out / "guidellm.json").read_bytes())["benchmarks"][0]["requests"]["successful"]
    return cost, Told(np.array([one["time_to_first_token_ms"] for one in found]) / 1e3)


def vllm(python: Path) -> Callable[..., tuple[Cost, Told]]:
    def run(url: str, load: Load, out: Path, work: Path) -> tuple[Cost, Told]:
        code = (
            "import argparse; from vllm.benchmarks.serve import add_cli_args, main; p = argparse.ArgumentParser(); "
            "add_cli_args(p); main(p.parse_args())"
        )
        command = [
            python, "-c", code, "--backend", "openai-chat", "--base-url", url, "--endpoint", "/v1/chat/completions", "--model", "known",
            "--dataset-name", "random", "--random-input-len", "8", "--random-output-len", TOKENS, "--request-rate", load.rate,
            "--burstiness", "1e6", "--num-prompts", load.requests, "--tokenizer", work / "tokenizer", "--save-result", "--save-detailed",
            "--result-dir", out, "--result-filename", "vllm.json", "--disable-tqdm", "--ready-check-timeout-sec", "0",
        ]  # fmt: skip
        cost = measured(command, out / "vllm", {"HF_HUB_OFFLINE": "1"})
        return cost, Told(np.array(json.loads((out / "vllm.json").read_bytes())["ttfts"]))

    return run


def tokenizer(work: Path) -> None:
    """The built-in tokenizer as a folder: peers make prompts with it, and count the tokens of answers."""
    folder = work / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(lzma.decompress(BUILT_IN_TOKENIZER.read_bytes()))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


# -- side by side -----------------------------------------------------------------------------------------------------


def one(name: str, run: Callable[..., tuple[Cost, Told]], load: Load, grid: bool, work: Path) -> float | None:
    """Measure a client and print its line; CPU us a token."""
    out = work / "replay" / f"{name}-{load.streams}-{time.monotonic_ns()}"
    out.mkdir(parents=True)
    try:
        with Server(work, grid) as server:
            cost, told = run(server.url, load, out, work)
    except (CommandError, StopIteration, KeyError, FileNotFoundError, subprocess.CalledProcessError) as bad:
        print(f"{name:<10} {load.streams:>6}  failed: {type(bad).__name__} {bad}", flush=True)
        return None
    answers = server.answers
    if len(answers) > load.requests:  # questions and warm-ups come first
        answers = answers[np.argsort(answers[:, 0])][-load.requests :]
    arrived = answers[:, 0]
    achieved = (len(arrived) - 1) / (arrived.max() - arrived.min()) / load.rate
    true = answers[:, 1] - answers[:, 0]
    bias = [1e3 * float(np.quantile(told.ttft_s, q) - np.quantile(true, q)) for q in (0.5, 0.99)]
    mean = 1e3 * float(told.ttft_s.mean() - true.mean())
    tokens = TOKENS * len(answers)
    window = (arrived.min(), answers[:, 2].max())
    a_token = 1e6 * cost.between(*window) / tokens
    print(
        f"{name:<10} {load.streams:>6} {len(answers):>8} {achieved:>9.4f} {mean:>9.2f} {bias[0]:>9.2f} {bias[1]:>9.2f} {a_token:>9.1f} "
        f"{1e6 * cost.cpu[-1] / tokens:>9.1f} {cost.peak_bytes(*window) / 2**20:>8.0f} {cost.peak_bytes(0, math.inf) / 2**20:>8.0f}",
        flush=True,
    )
    if told.more:
        print(f"{'':<17} {told.more}", flush=True)
    return a_token


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--grid", action="store_true", help="all streams' tokens at the same moments")
    parser.add_argument("--peers", action="store_true", help="aiperf (1.2 GB) and guidellm beside it")
    parser.add_argument("--vllm", type=Path, help="an interpreter that can import vllm")
    parser.add_argument("--small", action="store_true", help="a smoke run")
    parser.add_argument("--work", type=Path, default=Path("out/bench"))
    parser.add_argument("--as-client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_client:
        url, workload, out = options.as_client
        as_client(url, Path(workload), Path(out))
        return
    if options.small:
        options.streams, options.seconds = [50], 4.0
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    clients: dict[str, Callable[..., tuple[Cost, Told]]] = {"traceprof": ours, "limit": limit}
    if options.peers or options.vllm:
        tokenizer(work)
    if options.peers:
        clients |= {"aiperf": aiperf, "guidellm": guidellm}
    if options.vllm:
        clients["vllm"] = vllm(options.vllm)
    print(f"TTFT {1e3 * TTFT_S:.0f} ms, {1 / GAP_S:.0f} tokens a second, {TOKENS} tokens, grid {'on' if options.grid else 'off'}; {load_average()}")  # fmt: skip
    print(f"{'client':<10} {'streams':>6} {'answers':>8} {'achieved':>9} {'mean bias':>9} {'p50':>9} {'p99':>9} {'us/token':>9} {'whole':>9} {'MB':>8} {'whole':>8}")  # fmt: skip
    for streams in options.streams:
        load = Load(streams, options.seconds)
        found = {
            name: [one(name, run, load, options.grid, work) for _ in range(options.runs)]
            for name, run in clients.items()
        }
        own = [cost for cost in found.pop("traceprof") if cost]
        for name, costs in found.items():
            told = [cost for cost in costs if cost]
            if told and own:
                print(
                    f"{'':<17} CPU a token of {name}, of ours: {np.median(told) / np.median(own):.1f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
