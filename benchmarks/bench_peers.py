"""traceprof beside its peers: the same input in one run, as ratios of CPU time, with the hit rates that each reports.

    python -m benchmarks.bench_peers                  20,000 hashed requests, a 25 MB chat log, its token ids
    python -m benchmarks.bench_peers --large          200,000 hashed requests instead of 20,000, and nothing else
    python -m benchmarks.bench_peers --with-aiperf    also aiperf, which installs 1.2 GB
    python -m benchmarks.bench_peers --small          a smoke run

Each peer gets a virtual environment of its own under --work, in the version pinned here; one that cannot be installed, or
fails, is one line that says so. Inputs are made here, the same every time. Every command runs once on a tiny input
first, not counted: compilers and caches are then warm. How cost is measured: see bench_run.py.

ours = ingest, tokenize (where there is text) and profile as separate commands. It does more than any of the peers:
all capacities at once, every block size, with and without outputs, lengths, concurrency, arrivals, Parquet files.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import lzma
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bench_run import (
    TRACEPROF,
    CommandError,
    Cost,
    chat_log,
    load_average,
    measure,
    median,
    together,
)

BLOCK = 512  # of Mooncake traces
LIMIT_S = 900.0
UNBOUNDED = 10_000_000  # blocks: more than any input here has
BUILT_IN_TOKENIZER = Path(__file__).parents[1] / "traceprof" / "data" / "deepseek-v4.tokenizer.json.xz"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# -- the peers ------------------------------------------------------------------------------------------------------


class Rate(NamedTuple):
    """One number that a tool prints."""

    definition: str  # what it divides by what: a key of `exact`
    value: float


class Peer(NamedTuple):
    """A tool, how to run it on one kind of input, and where it leaves its numbers."""

    requirement: str
    command: Callable[[Path, Path, Path], list[str | Path]]  # (its bin folder, input, where its output goes)
    rates: Callable[[Path], list[Rate]]  # from where its output went
    why: str  # why its numbers are not ours; what it does beside
    offline: bool = False  # whether to keep it from looking for a model on a hub

    @property
    def name(self) -> str:
        return self.requirement.partition("==")[0]


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _lens_rates(definition: str) -> Callable[[Path], list[Rate]]:
    def rates(out: Path) -> list[Rate]:
        # its last row is the unbounded cache
        return [Rate(definition, _read(out.with_suffix(".json"))["reuse_potential"]["curve"][-1]["hit_rate"])]

    return rates


def _kvlint_rates(out: Path) -> list[Rate]:
    found = []
    for sim in _read(out.with_suffix(".json"))["sims"]:
        of = sim["per_request"]
        definition = "blocks of 16" if sim["engine"] == "vllm" else "token by token"
        tokens = sum(one["prompt_tokens"] for one in of)
        found.append(Rate(definition, sum(one["cached_tokens"] for one in of) / tokens))
        found.append(Rate("prompt tokens", tokens))
    return found[:3]  # both engines see the same prompt tokens


KVCACHE_SIMULATOR = Peer(
    "kvcache-simulator==0.1.3",
    lambda run, log, out: [
        run / "kvcache-simulator", "run", "--trace", log, "--model", "qwen2.5-7b", "--block-size", str(BLOCK),
        "--no-progress", "--policies", "lru", "--format", "json", "--output", out.with_suffix(".json"),
    ],
    lambda out: [Rate("last half", _read(out.with_suffix(".json"))["hitRateCeiling"])],
    "exact; counts the last half of the requests only. Here the ceiling and one LRU replay a memory budget",
)  # fmt: skip
LENS_HASHES = Peer(
    "llmtrafficlens==0.13.4",
    lambda run, log, out: [
        run / "llmtrafficlens", "profile", log, "--format", "mooncake", "--warmup", "0", "-o", out,
    ],
    _lens_rates("blocks of 512"),
    "above the truth: a partial last block that hits counts as a full 512 tokens. 6 fixed sizes and unbounded",
)  # fmt: skip
LENS_CHAT = Peer(
    "llmtrafficlens==0.13.4",
    lambda run, log, out: [
        run / "llmtrafficlens", "profile", log.with_suffix(".csv"), "--warmup", "0", "-o", out,
    ],
    _lens_rates("blocks of 16"),
    "an estimate: it has no tokenizer and no chat template, a token is 4 characters. 6 fixed sizes and unbounded",
)  # fmt: skip
KVLINT = Peer(
    "kvlint==0.1.1",
    lambda run, log, out: [
        run / "kvlint", "analyze", log.with_suffix(".bodies.jsonl"), "--model", log.with_name("tokenizer"),
        "--json", out.with_suffix(".json"),
    ],
    _kvlint_rates,
    "exact, with the same tokenizer and template: tokens and hits must be ours. Infinite cache only, prompts only",
    offline=True,
)  # fmt: skip
PREFIXLENS = Peer(
    "prefixlens==0.1.0",
    lambda run, log, out: [
        run / "prefixlens", "analyze", log.with_suffix(".prefixlens.jsonl"), "--block-size", "16",
        "--capacity-blocks", str(UNBOUNDED), "--json",
    ],
    lambda out: [Rate("full blocks of 16", _read(out.with_suffix(".out"))["hit_rate"])],
    "exact; leaves partial last blocks out of both sums. One capacity a run; hit rates by tag",
)  # fmt: skip
AIPERF = Peer(
    "aiperf==0.13.0",
    lambda run, log, out: [
        run / "aiperf", "analyze-trace", "--input-file", log, "--block-size", str(BLOCK),
        "--output-file", out.with_suffix(".json"),
    ],
    lambda out: [Rate("mean of requests", _mean_under(_read(out.with_suffix(".json")), "hit_rate"))],
    "exact; a mean over requests of hit blocks / blocks: a short prompt weighs as much as a long one. Infinite cache only",
    offline=True,
)  # fmt: skip


def _mean_under(value: Any, key: str) -> float:
    """The mean of the first statistics found under a name that holds `key`."""
    waiting = [value]
    for one in waiting:
        if isinstance(one, dict):
            for name, inner in one.items():
                if key in name and isinstance(inner, dict) and "mean" in inner:
                    return float(inner["mean"])
                if key in name and isinstance(inner, float):
                    return inner
                waiting.append(inner)
    raise KeyError(key)


def exact(profile: dict[str, Any]) -> dict[str, float]:
    """The same quantities as `Peer.rates` name, by our profile."""
    hashed = profile["tokenizer"]["unit"] > 1
    unit = profile["tokenizer"]["unit"] if hashed else 16
    said = {name: one["value"] for name, one in profile["prefix"]["definitions"].items()}
    return {
        "last half": said["last_half"],
        "token by token": said["token_weighted"],
        f"blocks of {unit}": said[f"token_weighted_blocks_of_{unit}"],
        f"full blocks of {unit}": said["full_blocks_only"],
        "mean of requests": said["mean_of_requests_in_blocks"],
        "prompt tokens": float(profile["prefix"]["input_tokens"]),
    }


def environment(peer: Peer, work: Path) -> Path:
    """The bin folder of a peer's own virtual environment, made when it is not there; raises CommandError."""
    home = work / "venvs" / peer.name
    stamp = home / ".installed"
    if not stamp.exists() or stamp.read_text() != peer.requirement:
        home.parent.mkdir(parents=True, exist_ok=True)
        said = home.with_name(f"{peer.name}-install")
        measure([sys.executable, "-m", "venv", "--clear", home], said=said, limit_s=LIMIT_S)
        install = [home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        measure([*install, peer.requirement], said=said, limit_s=LIMIT_S)
        stamp.write_text(peer.requirement)
    return (home / "bin").absolute()


# -- the inputs -----------------------------------------------------------------------------------------------------


def mooncake(path: Path, requests: int, seed: int = 7) -> None:
    """Multi-turn sessions as block hashes, sorted by time; every 20th request or so comes again, unchanged.

    A prompt of L tokens has ceil(L / 512) hashes. A partial last block has a hash of its own: in the next turn, filled
    up, it is another block.
    """
    rng = random.Random(seed)
    fresh = iter(range(1 << 60))
    systems = [[next(fresh) for _ in range(rng.randint(1, 12))] for _ in range(10)]
    # (time in ms, tie breaker, full blocks, tokens, turns left); a session begins when the one before it has begun
    events: list[tuple[int, int, list[int], int, int]] = []
    retries: list[tuple[int, int, dict[str, Any]]] = []
    clock, number = 0, 0
    with path.open("w") as sink:
        written = 0
        while written < requests:
            while not events or events[0][0] > clock:  # begin sessions up to the next turn
                system = systems[min(int(rng.expovariate(0.4)), 9)]
                number += 1
                heapq.heappush(
                    events, (clock, number, list(system), len(system) * BLOCK, 1 + int(rng.expovariate(0.35)))
                )
                clock += 1 + int(rng.expovariate(1 / 700))
            now, who, blocks, tokens, left = heapq.heappop(events)
            tokens += 1 + int(rng.expovariate(1 / 2600))
            blocks += [next(fresh) for _ in range(tokens // BLOCK - len(blocks))]
            record = {
                "timestamp": now,
                "input_length": tokens,
                "output_length": 1 + int(rng.expovariate(1 / 250)),
                "hash_ids": [*blocks, next(fresh)] if tokens % BLOCK else list(blocks),
            }
            while retries and retries[0][0] <= now and written < requests:
                at, _, again = heapq.heappop(retries)
                sink.write(json.dumps(again | {"timestamp": at}) + "\n")
                written += 1
            if written < requests:
                sink.write(json.dumps(record) + "\n")
                written += 1
            if rng.random() < 0.05:
                heapq.heappush(retries, (now + rng.randint(1_000, 9_000), who, record))
            if left > 1:
                tokens += record["output_length"]
                blocks += [next(fresh) for _ in range(tokens // BLOCK - len(blocks))]
                heapq.heappush(events, (now + rng.randint(5_000, 60_000), who, blocks, tokens, left - 1))


def chat(path: Path, mb: float, work: Path) -> None:
    """The chat log in the shapes that peers read: bodies (kvlint) and CSV (llmtrafficlens), by arrival; a tokenizer folder.

    Ours reads make_log.py's own file, whose lines stand in the order in which requests ended.
    """
    path.write_bytes(chat_log(work, mb).read_bytes())
    records = sorted(map(json.loads, path.open()), key=lambda r: r["timestamp"])  # stable, as ours is
    with path.with_suffix(".bodies.jsonl").open("w") as sink:
        for r in records:
            body = {"request_id": r["request_id"], "timestamp": _seconds(r), **r["request"]}
            sink.write(json.dumps(body) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as sink:
        table = csv.writer(sink)
        table.writerow(["timestamp", "model_name", "status_code", "request_json", "response_json"])
        for r in records:
            bodies = json.dumps(r["request"]), json.dumps(r["response"])
            table.writerow([_seconds(r), r["request"]["model"], r["status_code"], *bodies])
    folder = path.with_name("tokenizer")
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(lzma.decompress(BUILT_IN_TOKENIZER.read_bytes()))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _seconds(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()


def token_ids(path: Path, trace: Path) -> None:
    """The prompts of a tokenized trace as ids: as text completions for ours, and as prefixlens wants them."""
    import pyarrow.parquet as pq

    with path.open("w") as ours, path.with_suffix(".prefixlens.jsonl").open("w") as theirs:
        for i, (name, ids) in enumerate(
            _prompts(pq.ParquetFile(p) for p in sorted(trace.glob("tokens/*.parquet")))
        ):
            ours.write(
                json.dumps({"request_id": name, "timestamp": 1.7e9 + i, "model": "m", "prompt": ids}) + "\n"
            )
            theirs.write(json.dumps({"request_id": name, "token_ids": ids}) + "\n")


def _prompts(parts: Iterable[Any]) -> Iterator[tuple[str, list[int]]]:
    for part in parts:
        for batch in part.iter_batches(256, columns=["request_id", "input_ids"]):
            yield from zip(batch["request_id"].to_pylist(), batch["input_ids"].to_pylist(), strict=True)


# -- side by side ---------------------------------------------------------------------------------------------------


class Input(NamedTuple):
    """One input in the shapes that the tools read."""

    title: str
    log: Path  # ours; peers read neighbours of it
    tiny: Path  # a small one of the same kind, to warm up on
    peers: list[Peer]
    tokenizer: Path | None = None


class Measured(NamedTuple):
    """What a tool cost and said."""

    cost: Cost
    rates: list[Rate]


def ours(of: Input, log: Path, out: Path) -> tuple[Cost, dict[str, Any]]:
    """What ingest, tokenize and profile take, and the profile."""
    steps: dict[str, list[str | Path]] = {"ingest": ["ingest", log, "-o", out / "trace"]}
    if of.tokenizer:
        steps["tokenize"] = ["tokenize", out / "trace", "--tokenizer", of.tokenizer]
    steps["profile"] = ["profile", out / "trace", "-o", out / "profile"]
    out.mkdir(parents=True, exist_ok=True)
    costs = [measure([TRACEPROF, *step, "-q"], said=out / name) for name, step in steps.items()]
    return together(costs), _read(out / "profile" / "profile.json")


def theirs(peer: Peer, log: Path, out: Path, work: Path) -> Measured:
    """What a peer takes and says; raises CommandError."""
    bin_ = environment(peer, work)
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if peer.offline else {}
    where = out.absolute()
    command = peer.command(bin_, log.absolute(), where)
    cost = measure(command, said=where, cwd=where.parent, env=settings, limit_s=LIMIT_S)
    try:
        return Measured(cost, peer.rates(where))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise CommandError(f"ran, but its result cannot be read: {type(error).__name__} {error}") from error


def side_by_side(of: Input, work: Path, runs: int) -> None:
    """Run ours and every peer `runs` times, in turns, and print their table."""
    out = work / "peers-out" / of.log.stem
    ours(of, of.tiny, out / "tiny")
    failed: dict[str, str] = {}
    for peer in of.peers:
        try:
            theirs(peer, of.tiny, out / "tiny" / peer.name, work)
        except CommandError as error:
            failed[peer.name] = str(error)
    own: list[Cost] = []
    found: dict[str, list[Measured]] = {}
    profile: dict[str, Any] = {}
    before = load_average()
    for _ in range(runs):
        cost, profile = ours(of, of.log, out / "ours")
        own.append(cost)
        for peer in of.peers:
            if peer.name not in failed:
                try:
                    found.setdefault(peer.name, []).append(theirs(peer, of.log, out / peer.name, work))
                except CommandError as error:
                    failed[peer.name] = str(error)
    show(of, profile, median(own), {n: f for n, f in found.items() if n not in failed}, failed)
    print(f"medians of {runs}; {before} before, {load_average()} after\n")


COLUMNS = f"{'tool':<26}{'wall s':>8}{'CPU s':>8}{'of ours':>9}{'peak MB':>9}   "


def _line(name: str, cost: Cost, own: Cost) -> str:
    ratio = f"{cost.cpu_s / own.cpu_s:.2f} x"
    return f"{name:<26}{cost.wall_s:>8.2f}{cost.cpu_s:>8.2f}{ratio:>9}{cost.peak_bytes / 1e6:>9,.0f}   "


def show(
    of: Input, profile: dict[str, Any], own: Cost, found: dict[str, list[Measured]], failed: dict[str, str]
) -> None:
    """The table of one input, then why numbers differ."""
    size = of.log.stat().st_size / 1e6
    truth = exact(profile)
    print(
        f"{of.title}: {profile['trace']['requests']:,} requests, {size:,.1f} MB, {truth['prompt tokens'] / 1e6:,.1f} M tokens"
    )
    print(f"{COLUMNS}{'definition':<18}{'it says':>11}{'exact':>11}   difference")
    print(_line("traceprof", own, own) + "all of these")
    for peer in of.peers:
        if peer.name in failed:
            print(f"{peer.name:<26}  {failed[peer.name]}")
            continue
        measured = found[peer.name]
        start = _line(peer.requirement.replace("==", " "), median([m.cost for m in measured]), own)
        for rate in measured[-1].rates:
            print(f"{start:<{len(COLUMNS)}}{_compared(rate, truth[rate.definition])}")
            start = ""
    for peer in of.peers:
        print(f"  {peer.name}: {peer.why}")


def _compared(rate: Rate, truth: float) -> str:
    if rate.definition == "prompt tokens":
        same = "equal" if rate.value == truth else f"{rate.value - truth:+,.0f}"
        return f"{rate.definition:<18}{rate.value:>11,.0f}{truth:>11,.0f}   {same}"
    same = (
        "equal" if math.isclose(rate.value, truth, rel_tol=1e-12) else f"{(rate.value - truth) * 100:+.2f} pp"
    )
    return f"{rate.definition:<18}{rate.value:>11.6f}{truth:>11.6f}   {same}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="200,000 hashed requests, and nothing else")
    parser.add_argument("--small", action="store_true", help="2,000 hashed requests and 3 MB of chat")
    parser.add_argument("--with-aiperf", action="store_true", help="also aiperf, which installs 1.2 GB")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="medians of N runs (1)")
    parser.add_argument(
        "--work", type=Path, default=Path("out/bench"), help="folder for inputs and environments"
    )
    options = parser.parse_args()
    requests = 200_000 if options.large else 2_000 if options.small else 20_000
    hashes = [KVCACHE_SIMULATOR, LENS_HASHES, *([AIPERF] if options.with_aiperf else [])]

    folder, tiny = options.work / "peers-in", options.work / "peers-in" / "tiny"
    tiny.mkdir(parents=True, exist_ok=True)
    subprocess.run([TRACEPROF, "--version"], check=True, stdout=subprocess.DEVNULL)
    log = folder / f"mooncake-{requests}.jsonl"
    mooncake(log, requests)
    mooncake(tiny / "mooncake.jsonl", 200)
    side_by_side(Input("hashed requests", log, tiny / "mooncake.jsonl", hashes), options.work, options.runs)
    if options.large:
        return
    log = folder / "chat.jsonl"
    chat(log, 3 if options.small else 25, options.work)
    chat(tiny / "chat.jsonl", 1, options.work)
    texts = Input("chat log, text", log, tiny / "chat.jsonl", [KVLINT, LENS_CHAT], folder / "tokenizer")
    side_by_side(texts, options.work, options.runs)
    ran = options.work / "peers-out" / "chat"
    token_ids(folder / "ids.jsonl", ran / "ours" / "trace")
    token_ids(tiny / "ids.jsonl", ran / "tiny" / "trace")
    ids = Input("the same, token ids", folder / "ids.jsonl", tiny / "ids.jsonl", [PREFIXLENS])
    side_by_side(ids, options.work, options.runs)


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(f"Error: {error}")
