"""Exports of workloads, each read by the very tool that it is for: its own loader, out of an environment of its own.

What a tool makes of a file is held against the workload: how many requests, when, of which session, with which prompts and lengths, and
what they share. `tool` in a test's parameters names its environment.
"""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers

from traceprof.ingest import Options as Reading
from traceprof.ingest import ingest
from traceprof.tokenizer import load
from traceprof.trace import Trace
from traceprof.workload.exports import export
from traceprof.workload.make import Options, make_workload
from traceprof.workloads import Workload

LOADERS = servers.HERE / "export_loaders.py"
LIMIT_S = 400
Loaded = list[dict[str, Any]]


def conversations() -> list[dict[str, Any]]:
    """Three conversations under one system prompt, and requests of their own beside them, 7 s apart and answered sooner."""
    system = {
        "role": "system",
        "content": "You answer questions about Python: import, def, class and return. " * 8,
    }
    history: dict[str, list[dict[str, str]]] = {}
    found = []
    for k in range(24):
        name = "abcd"[k % 4]
        said = [system] if name == "d" else history.setdefault(name, [system])
        said = [
            *said,
            {"role": "user", "content": f"What does question {k} of {name} return? " * (k % 5 + 2)},
        ]
        answer = {"role": "assistant", "content": f"It returns {k}: Grüße, 世界 🙂. " * (k % 3 + 1)}
        found.append(
            {
                "timestamp": f"2026-08-21T12:{k * 7 // 60:02d}:{k * 7 % 60:02d}.{37 * k:03d}Z",
                "request_id": f"r{k}",
                "latency_ms": 1500 + k,
                "request": {"model": "tiny", "messages": said, "temperature": 0.5},
                "response": {
                    "choices": [{"message": answer, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 20 + k},
                },
            }
            | ({"session_id": name} if name != "d" else {})
        )
        if name != "d":
            history[name] = [*said, answer]
    return found


class Made(NamedTuple):
    """A workload, its rows, the token ids of their prompts, and a folder for its exports."""

    workload: Workload
    rows: Loaded
    ids: list[list[int]]
    folder: Path

    def load(self, tool: str, name: str, *options: str, block_size: int | None = None) -> Loaded:
        """What a tool's own loader makes of an export."""
        path = export(
            self.workload, name, self.folder / f"{name}.jsonl", block_size=block_size, model="tiny"
        ).path
        hub = self.folder / "hub"
        model = named(hub) if tool == "aiperf" else str(servers.MODEL)
        words = [servers.python(tool), str(LOADERS), tool, str(path), model, *options]
        variables = {
            "HF_HOME": str(hub), "XDG_CACHE_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1",
        }  # fmt: skip
        log = self.folder / f"{tool}-{name}.log"
        with log.open("wb") as err:
            done = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=err, timeout=LIMIT_S, check=False, cwd=self.folder,
                env=servers.environment(**variables),
            )  # fmt: skip
        if done.returncode:
            servers.failed(f"{tool} did not load {path.name}", log)
        found: Loaded = json.loads(done.stdout.splitlines()[-1])
        return found

    def messages(self) -> list[Any]:
        return [json.loads(row["messages_json"]) for row in self.rows]

    def of(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows]


def named(hub: Path) -> str:
    """The tiny model as one of the hub that was fetched before: AIPerf takes no folder while it is offline."""
    home = hub / "hub" / "models--traceprof--tiny"
    snapshot = home / "snapshots" / ("0" * 40)
    if not snapshot.exists():
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        snapshot.parent.mkdir()
        snapshot.symlink_to(servers.MODEL)
    return "traceprof/tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The conversations as a workload under the tiny model's tokenizer."""
    if not (servers.MODEL / "tokenizer.json").exists():
        servers.failed("there is no tiny model", servers.ENGINES / "model.log")
    folder = tmp_path_factory.mktemp("exports")
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(one) + "\n" for one in conversations()))
    trace = ingest([log], folder / "trace", Reading())
    asked = Options(tokenizer=str(servers.MODEL), engines=("infinite",))
    workload = make_workload(trace, folder / "workload.parquet", asked)
    rows = [row for batch in workload.batches() for row in batch.to_pylist()]
    tokens = export(workload, "sglang-tokens", folder / "tokens.jsonl").path.read_text().splitlines()
    ids = [json.loads(line)["input_tokens"] for line in tokens]
    assert len(rows) == 24 and [len(one) for one in ids] == [row["input_tokens"] for row in rows]
    return Made(workload, rows, ids, folder)


def read(texts: list[str]) -> list[list[int]]:
    """What a completions endpoint makes of texts."""
    got = load(str(servers.MODEL)).encode(texts, add_special_tokens=True)
    return [got.ids[a:b].tolist() for a, b in pairwise(got.offsets.tolist())]


def shared(one: list[int], other: list[int]) -> int:
    """Tokens with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def known_blocks(prompts: list[list[int]], size: int) -> list[int]:
    """Of each prompt the full blocks with which an earlier one begins."""
    return [max([shared(p, q) // size for q in prompts[:i]], default=0) for i, p in enumerate(prompts)]


@pytest.mark.parametrize("tool", ["aiperf"])
def test_aiperf_replays_the_sessions_with_their_messages(tool: str, made: Made) -> None:
    """Conversations whose turns have the recorded history, times, delays and lengths of output."""
    found = made.load(tool, "aiperf")
    assert len(found) == 24 and {one["mode"] for one in found} == {"message_array_with_responses"}
    turns: dict[str, Loaded] = {}
    for one in found:
        turns.setdefault(one["session"], []).append(one)
    assert sorted(len(one) for one in turns.values()) == [1] * 6 + [6] * 3
    in_order = sorted(found, key=lambda one: one["at_ms"])
    assert [one["messages"] for one in in_order] == made.messages()
    assert [one["at_ms"] * 1000 for one in in_order] == made.of("arrival_us")
    assert [one["delay_ms"] and one["delay_ms"] * 1000 for one in in_order] == made.of("think_us")
    assert [one["output"] for one in in_order] == made.of("output_tokens")
    assert [one["extra"] for one in in_order] == [{"temperature": 0.5}] * 24
    assert [one["session"] for one in in_order if len(turns[one["session"]]) > 1] == [
        s for s in made.of("session_id") if s
    ]


@pytest.mark.parametrize("tool", ["aiperf"])
@pytest.mark.parametrize("prompts", ["text", "ids"])
def test_aiperf_sends_bodies_of_texts_and_ids(tool: str, prompts: str, made: Made, tmp_path: Path) -> None:
    """Made prompts, which no chat message can carry to the token, as whole bodies; sessions, times and delays as ever."""
    asked = Options(
        tokenizer=str(servers.MODEL),
        engines=("infinite",),
        variant="shared",
        synthesize=True,
        prompts=prompts,
    )
    workload = make_workload(Trace(made.folder / "trace"), tmp_path / "w.parquet", asked)
    rows = [row for batch in workload.batches() for row in batch.to_pylist()]
    other = Made(workload, rows, [], tmp_path)
    found = sorted(other.load(tool, "aiperf"), key=lambda one: one["at_ms"])
    column = {"text": "prompt_text", "ids": "prompt_ids"}[prompts]
    assert [one["payload"]["prompt"] for one in found] == other.of(column)
    assert [one["payload"]["max_tokens"] for one in found] == other.of("output_tokens")
    assert {one["mode"] for one in found} == {"message_array_with_responses"}
    assert [one["at_ms"] * 1000 for one in found] == other.of("arrival_us")
    assert [one["delay_ms"] and one["delay_ms"] * 1000 for one in found] == other.of("think_us")


@pytest.mark.parametrize("tool", ["aiperf"])
def test_aiperf_makes_prompts_of_a_mooncake_trace(tool: str, made: Made) -> None:
    """A prompt a request, whose text begins alike where blocks do; what it writes is read as a few tokens more or less."""
    found = made.load(tool, "mooncake", "block_size=64", block_size=64)
    found.sort(key=lambda one: one["at_ms"])
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [one["at_ms"] for one in found] == [us // 1000 for us in made.of("arrival_us")]
    lengths = zip([len(one["tokens"]) for one in found], made.of("input_tokens"), strict=True)
    assert all(abs(read - told) <= 0.1 * told for read, told in lengths)
    for (one, other), (ids, more) in zip(pairwise(found), pairwise(made.ids), strict=True):
        alike = shared(ids, more) // 64 * 64
        assert abs(shared(one["tokens"], other["tokens"]) - alike) < 0.1 * alike + 16


@pytest.mark.parametrize("tool", ["guidellm"])
def test_guidellm_replays_the_prompts_at_their_times(tool: str, made: Made) -> None:
    """Texts that are read as the prompts' tokens, lengths, and seconds since the start."""
    found = made.load(tool, "guidellm")
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [round(one["at_s"] * 1e6) for one in found] == made.of("arrival_us")
    assert read([one["prompt"] for one in found]) == made.ids


@pytest.mark.parametrize("tool", ["guidellm"])
def test_guidellm_reads_a_mooncake_trace(tool: str, made: Made) -> None:
    """Lengths, and times in its unit; prompts that begin alike where blocks do."""
    found = made.load(tool, "mooncake", "kind=mooncake", "block_size=64", block_size=64)
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [round(one["at_s"] * 1000) for one in found] == [us // 1000 for us in made.of("arrival_us")]
    alike = [one["prompt"][:200] == found[0]["prompt"][:200] for one in found]
    assert alike == [shared(ids, made.ids[0]) >= 64 for ids in made.ids] and sum(alike) > 12


@pytest.mark.parametrize("tool", ["inference_perf"])
def test_inference_perf_replays_the_sessions_as_chains(tool: str, made: Made) -> None:
    """Each turn after the one before, as long after it as recorded, with its messages and the length of its answer."""
    found = {one["request"]: one for one in made.load(tool, "inference-perf")}
    assert len(found) == 24
    for row, said in zip(made.rows, made.messages(), strict=True):
        one = found[row["request_id"]]
        assert one["messages"] == said
        assert (one["input"], one["output"]) == (row["input_tokens"], row["output_tokens"])
        assert one["session"] == (row["session_id"] or row["request_id"])
        before = [] if row["parent"] is None else [made.rows[row["parent"]]["request_id"]]
        assert one["after"] == before
        assert abs(one["wait_ms"] * 1000 - (row["think_us"] or 0)) <= 1000


@pytest.mark.parametrize("tool", ["inference_perf"])
def test_inference_perf_reads_times_and_lengths(tool: str, made: Made) -> None:
    """Of every request, as seconds since the first."""
    found = made.load(tool, "azure", "kind=azure")
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [round(one["at_s"] * 1e6) for one in found] == made.of("arrival_us")


@pytest.mark.parametrize("tool", ["vllm"])
def test_vllm_reads_the_prompts_of_a_custom_data_set(tool: str, made: Made) -> None:
    """In order, each read as the tokens of the messages that it stands for, with the length of its answer."""
    found = made.load(tool, "vllm-custom", "kind=custom")
    assert read([one["prompt"] for one in found]) == made.ids
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")


@pytest.mark.parametrize("tool", ["vllm"])
@pytest.mark.parametrize("size", [16, 64])
def test_vllm_makes_prompts_that_share_blocks_of_a_timed_trace(tool: str, size: int, made: Made) -> None:
    """Token ids of the right number at the right times; what an earlier one begins with is the same, block by block."""
    found = made.load(tool, "vllm-timed-trace", "kind=timed_trace", f"block_size={size}", block_size=size)
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [round(one["at_s"] * 1e6) for one in found] == made.of("arrival_us")
    known = known_blocks([one["prompt"] for one in found], size)
    assert known == known_blocks(made.ids, size) and sum(known) > 24


@pytest.mark.parametrize("tool", ["sglang_bench"])
def test_sglang_reads_the_bodies(tool: str, made: Made) -> None:
    """Messages as they are, as many tokens under the model's own template, lengths and parameters."""
    found = made.load(tool, "sglang")
    assert [one["messages"] for one in found] == made.messages()
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    assert [one["extra"] for one in found] == [{"temperature": 0.5}] * 24


@pytest.mark.parametrize("tool", ["sglang_bench"])
def test_sglang_reads_a_mooncake_trace(tool: str, made: Made) -> None:
    """The rows that it makes prompts of at their times."""
    found = made.load(tool, "mooncake", "kind=mooncake")
    assert [row["timestamp"] for row in found] == [us // 1000 for us in made.of("arrival_us")]
    assert [row["output_length"] for row in found] == made.of("output_tokens")


@pytest.mark.parametrize("tool", ["dynamo"])
@pytest.mark.parametrize("name", ["mooncake", "dynamo", "dynamo-agentic"])
def test_dynamos_simulated_cache_hits_what_the_prompts_share(tool: str, name: str, made: Made) -> None:
    """Request by request, in its blocks of 64; a turn comes after the one before, and as long after it as recorded."""
    kind = {"dynamo-agentic": "agentic_mooncake"}.get(name, "mooncake")
    found = made.load(tool, name, f"kind={kind}", "block_size=64", block_size=64)
    found.sort(key=lambda one: one["at_ms"])
    assert [one["input"] for one in found] == made.of("input_tokens")
    assert [one["output"] for one in found] == made.of("output_tokens")
    known = known_blocks(made.ids, 64)
    assert [one["hit_tokens"] for one in found] == [64 * blocks for blocks in known] and sum(known) > 24
    if name == "mooncake":
        assert [round(one["at_ms"]) for one in found] == [us // 1000 for us in made.of("arrival_us")]
        return
    ended: dict[str, float] = {}
    for one, row in zip(found, made.rows, strict=True):
        if row["think_us"] is not None and name == "dynamo":
            assert abs(one["at_ms"] - ended[row["session_id"]] - row["think_us"] / 1000) < 1e-6
        if (
            name == "dynamo-agentic"
        ):  # the simulated engine is faster than the recorded one: the recorded time holds
            assert abs(one["at_ms"] - row["arrival_us"] / 1000) < 1e-6
        ended[row["session_id"]] = one["end_ms"]
