"""vLLM on CPU: its request log at DEBUG and its own spans, against the usage and the token ids that it told its client."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers
from servers import MODEL, Answer, chat, conversation, free_port, lines, python, serving, streamed, until

Ingest = Callable[..., Any]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
READY_S = 400  # on two busy cores
SETTINGS = {
    "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "500", "TZ": "UTC",
}  # fmt: skip


class Session(NamedTuple):
    """What was asked of one server, in order, and what it wrote meanwhile."""

    turns: list[Answer]  # of one conversation: each prompt goes on from the one before
    others: list[Answer]
    refused: Answer  # a prompt that is too long
    ids: list[list[int]]  # what the server itself makes of each answered prompt
    log: Path
    spans: Path

    def answered(self) -> list[Answer]:
        return self.turns + self.others


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("vllm")
    log, spans = folder / "vllm.log", folder / "spans.jsonl"
    port, collector = free_port(), free_port()
    words = [
        python("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "8",
        "--block-size", "32", "--enforce-eager", "--enable-prompt-tokens-details", "--enable-log-requests",
        "--enable-log-outputs", "--otlp-traces-endpoint", f"http://127.0.0.1:{collector}/v1/traces",
    ]  # fmt: skip
    collecting = [python("vllm"), str(servers.HERE / "collector.py"), str(collector), str(spans)]
    homes = {
        "HF_HOME": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "VLLM_CONFIG_ROOT": str(folder),
    }
    ask = partial(servers.ask, port)
    with (
        serving("the collector", collecting, collector, folder / "collector.log", "/", limit_s=60),
        serving("vLLM", words, port, log, "/health", READY_S, **SETTINGS, **homes),
    ):
        turns = conversation(3, lambda body: ask(CHAT, body))
        text = {"model": "tiny", "prompt": "def read(path):", "max_tokens": 4, "temperature": 0}
        others = [
            ask(CHAT, streamed(chat("Grüße, 世界 🙂: quote \"this\" and 'that', params: x", max_tokens=5))),
            ask(CHAT, chat("Say 'something' about \"lists\" of\nfiles.", max_tokens=1)),
            ask(TEXT, text),
            ask(TEXT, streamed(text | {"max_tokens": 6})),
        ]
        refused = ask(CHAT, chat("import os " * 6000))
        ids = [_ids(ask, a.asked) for a in turns + others]
        until("the spans of all requests", folder / "collector.log", lambda: _spans(spans) == 7)
    assert {a.status for a in turns + others} == {200} and refused.status == 400
    return Session(turns, others, refused, ids, log, spans)


def _ids(ask: Callable[..., Answer], asked: dict[str, Any]) -> list[int]:
    """The token ids of a prompt, as the server's own /tokenize gives them."""
    found: list[int] = ask(
        "/tokenize", {k: asked[k] for k in ("model", "messages", "prompt") if k in asked}
    ).body()["tokens"]
    return found


def _spans(path: Path) -> int:
    return sum(line.count('"llm_request"') for line in lines(path))


def test_its_log_tells_every_request_and_nothing_else(session: Session, ingest: Ingest) -> None:
    """Answered and refused requests in their order; calls of /tokenize ask for no answer."""
    found = ingest(session.log)
    assert found.format() == "vllm-log" and not found.manifest["rejects"]
    rows = sorted(found.rows, key=lambda r: r["source_row"])
    assert [r["request_id"].split("-")[0] for r in rows[:7]] == ["chatcmpl"] * 5 + ["cmpl"] * 2
    assert [r["status"] for r in rows[:5]] == ["ok"] * 5
    assert (rows[7]["status"], rows[7]["http_status"]) == ("rejected", 400)
    assert len(rows) == 8


def test_its_log_tells_the_token_ids_of_prompts(session: Session, ingest: Ingest) -> None:
    """The very ids that /tokenize gives, as many as usage counts."""
    rows = _answered(ingest(session.log).rows)
    assert [list(r["input_ids"]) for r in rows] == session.ids
    usage = [a.usage()["prompt_tokens"] for a in session.answered()]
    assert [r["input_tokens"] for r in rows] == [len(r["input_ids"]) for r in rows] == usage


def test_its_log_tells_the_answers(session: Session, ingest: Ingest) -> None:
    """As many output ids as usage counts, and the text; vLLM does not log answers of text completions."""
    rows = _answered(ingest(session.log).rows)
    for row, answer in zip(rows[:5], session.answered(), strict=False):
        assert row["output_tokens"] == len(row["output_ids"]) == answer.usage()["completion_tokens"]
        assert json.loads(row["output_json"])["content"] == answer.text()
        assert row["finish_reason"] == "length" and row["max_output_tokens"] == answer.asked["max_tokens"]
    assert [r["output_tokens"] for r in rows[5:]] == [None, None]


def test_its_log_tells_the_bodies(session: Session, ingest: Ingest) -> None:
    """Messages, prompts, models, streams and ids as the client sent and got them."""
    for row, answer in zip(_answered(ingest(session.log).rows), session.answered(), strict=True):
        assert row["request_id"].startswith(answer.id())
        assert row["model_requested"] == "tiny" and row["cached_input_tokens"] is None
        assert bool(row["stream"]) == bool(answer.asked.get("stream"))
        if answer.path == CHAT:
            assert json.loads(row["messages_json"]) == answer.asked["messages"]
        else:
            assert row["prompt_text"] == answer.asked["prompt"]
        # to the second
        assert int(answer.sent) <= row["arrival_ts"].timestamp() <= answer.ended


def test_what_its_cache_served_is_what_the_prompts_share(session: Session, ingest: Ingest) -> None:
    """The ids of one turn begin with those of the turn before: whole blocks of the cache, as vLLM counted them."""
    rows = _answered(ingest(session.log).rows)
    for before, row, answer in zip(rows, rows[1:], session.turns[1:], strict=False):
        assert row["input_ids"][: len(before["input_ids"])] == before["input_ids"]
        known = len(before["input_ids"]) + len(before["output_ids"])
        assert len(before["input_ids"]) // 32 * 32 <= answer.usage()["cached"] <= known // 32 * 32


def test_its_spans_tell_the_tokens(session: Session, ingest: Ingest) -> None:
    """A span for every answered request, with its tokens and the time to its first; there is no text and no model."""
    found = ingest(session.spans)
    assert found.format() == "otlp" and not found.manifest["rejects"]
    assert len(found.rows) == len(session.answered())
    for row, answer in zip(found.rows, session.answered(), strict=True):
        usage = answer.usage()
        assert (row["input_tokens"], row["output_tokens"]) == (
            usage["prompt_tokens"],
            usage["completion_tokens"],
        )
        assert row["provider_request_id"].startswith(answer.id()) and row["model_requested"] is None
        assert row["cached_input_tokens"] is None and row["content_state"] == "absent"
        assert row["status"] == "ok" and row["max_output_tokens"] == answer.asked["max_tokens"]
        assert answer.sent < row["arrival_ts"].timestamp() < row["first_token_ts"].timestamp() < answer.ended


def _answered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answered requests in the order of the log, whose clock shows whole seconds."""
    return sorted((r for r in rows if r["status"] != "rejected"), key=lambda r: r["source_row"])[:7]
