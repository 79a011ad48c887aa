"""The LiteLLM proxy before llama.cpp's server: its callbacks' payloads and its SpendLogs rows against what the client saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers
from servers import Answer, chat, conversation, lines, llama_cpp, streamed, until

Ingest = Callable[..., Any]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Session(NamedTuple):
    """What was asked of one proxy, in this order."""

    turns: list[Answer]  # of one conversation, under the client's own session id
    others: list[Answer]
    refused: list[Answer]  # of a model that the proxy does not know, and one prompt that is too long
    fallen_back: Answer  # asked of a model whose server is not there, answered by another
    twice: list[Answer]  # one request and its repetition, which the proxy answers from its own cache
    payloads: Path
    rows: Path

    def answered(self) -> list[Answer]:
        return [*self.turns, *self.others, self.fallen_back, *self.twice]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("litellm")
    port, log = servers.free_port(), folder / "litellm.log"
    payloads, rows = folder / "payloads.jsonl", folder / "spendlogs.jsonl"
    words = [
        str(Path(servers.python("litellm")).with_name("litellm")), "--config", str(servers.HERE / "litellm.yaml"),
        "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip
    with llama_cpp(folder) as behind:
        variables = {
            "LITELLM_LOGS": str(folder), "LLAMA_URL": f"http://127.0.0.1:{behind}/v1",
            "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }  # fmt: skip
        with servers.serving("LiteLLM", words, port, log, "/health/liveliness", limit_s=180, **variables):
            ask = partial(servers.ask, port, headers={"Authorization": "Bearer sk-local"})

            def support(request: dict[str, Any]) -> Answer:
                return ask(CHAT, request | {"model": "support-chat"})

            turns = conversation(3, support, metadata={"session_id": "s_7"}, user="u_81")
            others = [
                support(chat("Grüße, 世界 🙂: quote \"this\" and 'that'", max_tokens=5)),
                support(streamed(chat("Say something about lists of files."))),
                ask(
                    TEXT,
                    {"model": "support-chat", "prompt": "def read(path):", "max_tokens": 4, "temperature": 0},
                ),
            ]
            refused = [
                ask(CHAT, chat("Is there such a model?", model="no-such-model")),
                support(chat("import os " * 6000)),
            ]
            fallen_back = ask(CHAT, chat("Who answers?", model="down-first"))
            repeated = chat("Say this once.", cache={"use-cache": True})
            twice = [support(repeated), support(repeated)]
            # the attempt that failed before the fallback is an attempt of its own for the callbacks
            until("all payloads of the callbacks", log, lambda: len(lines(payloads)) == 12)
            until("all rows of SpendLogs", log, lambda: len(lines(rows)) == 11)
    seen = Session(turns, others, refused, fallen_back, twice, payloads, rows)
    assert {a.status for a in seen.answered()} == {200} and [a.status for a in refused] == [400, 400]
    return seen


def _expected(answer: Answer) -> dict[str, Any]:
    """What the client knows of an answer, under the names of the trace's columns."""
    usage, model = answer.usage(), answer.asked["model"]
    return {
        "status": "ok",
        "operation": "chat" if answer.path == CHAT else "text",
        "model_requested": model,
        "model_served": "hosted_vllm/tiny",
        "input_tokens": usage["prompt_tokens"],
        "cached_input_tokens": usage["cached"],
        "output_tokens": usage["completion_tokens"],
        "finish_reason": "length",
        "user_id": answer.asked.get("user"),
        "max_output_tokens": answer.asked["max_tokens"],
    }


def _held(row: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return {key: row[key] for key in _expected(answer)}


def _prompt(row: dict[str, Any]) -> Any:
    return row["prompt_text"] or json.loads(row["messages_json"])


def _within(row: dict[str, Any], answer: Answer) -> bool:
    """Whether the times of a row lie within what the client measured around them, in their right order."""
    times = [row["arrival_ts"], row["first_token_ts"], row["end_ts"]]
    told = [t.timestamp() for t in times if t is not None]
    return answer.sent < told[0] and told == sorted(told) and told[-1] < answer.ended + 1


def _said(row: dict[str, Any]) -> Any:
    return json.loads(row["output_json"])["content"]


def test_callbacks_tell_what_the_client_saw(session: Session, ingest: Ingest) -> None:
    """Tokens, cached tokens, model, text and times of every answer; the proxy's own cache is no engine's."""
    found = ingest(session.payloads)
    assert found.format() == "litellm" and not found.manifest["rejects"]
    ok = [r for r in found.rows if r["status"] == "ok"]
    for row, answer in zip(ok, session.answered(), strict=True):
        expected = _expected(answer)
        if answer is session.fallen_back:
            expected["model_requested"] = "support-chat"  # a payload names the group that answered
        if answer is session.twice[1]:
            expected["max_output_tokens"] = None  # what the proxy's own cache answers has no parameters
        assert _held(row, answer) == expected
        assert _prompt(row) == (answer.asked.get("prompt") or answer.asked["messages"])
        assert _said(row) == answer.text() and _within(row, answer)
        assert row["provider_request_id"] == answer.id() or answer is session.twice[1]
        assert row["attempt_group"] == answer.headers["x-litellm-call-id"]
        assert bool(row["stream"]) == bool(answer.asked.get("stream"))
    assert session.turns[1].usage()["cached"] > 100
    assert [r["served_from_response_cache"] for r in ok] == [False] * 8 + [True]


def test_callbacks_tell_sessions(session: Session, ingest: Ingest) -> None:
    """A session that the client names, in each of its turns; where it names none, LiteLLM's trace of one request."""
    ok = [r for r in ingest(session.payloads).rows if r["status"] == "ok"]
    assert [(r["session_id"], r["session_kind"]) for r in ok[:3]] == [("s_7", "explicit")] * 3
    others = [r["session_id"] for r in ok[3:]]
    assert len(set(others)) == len(others) and "s_7" not in others
    assert "explicit" not in {r["session_kind"] for r in ok[3:]}


def test_callbacks_tell_the_first_token_of_streams_only(session: Session, ingest: Ingest) -> None:
    """The time of the first token lies between the attempt's start and the client's first chunk."""
    ok = [r for r in ingest(session.payloads).rows if r["status"] == "ok"]
    for row, answer in zip(ok, session.answered(), strict=True):
        assert (row["first_token_ts"] is not None) == bool(answer.asked.get("stream"))
        if row["first_token_ts"] is not None:
            assert row["arrival_ts"] < row["first_token_ts"] < row["end_ts"]
            # LiteLLM hands its first chunk on after it has taken the time
            assert row["first_token_ts"].timestamp() < answer.first + 0.001


def test_callbacks_tell_failures_and_what_they_fell_back_to(session: Session, ingest: Ingest) -> None:
    """A failed attempt counts no tokens, and shares its group with the attempt that took its place."""
    rows = ingest(session.payloads).rows
    failed = [r for r in rows if r["status"] != "ok"]
    assert [(r["status"], r["http_status"]) for r in failed[:2]] == [("rejected", 400)] * 2
    assert [r["error_type"] for r in failed[:2]] == ["ProxyModelNotFoundError", "ContextWindowExceededError"]
    assert [r["attempt_group"] for r in failed[:2]] == [
        a.headers["x-litellm-call-id"] for a in session.refused
    ]
    assert (failed[2]["status"], failed[2]["model_requested"]) == ("error", "down-first")
    group = session.fallen_back.headers["x-litellm-call-id"]
    assert [r["status"] for r in rows if r["attempt_group"] == group] == ["error", "ok"]
    assert {(r["input_tokens"], r["output_tokens"]) for r in failed} == {(None, None)}


def test_spendlogs_tell_what_the_client_saw(session: Session, ingest: Ingest) -> None:
    """The rows of the table hold the same, with the model that the client asked for also after a fallback."""
    found = ingest(session.rows)
    assert found.format() == "litellm-spendlogs" and not found.manifest["rejects"]
    ok = [r for r in found.rows if r["status"] == "ok"]
    for row, answer in zip(ok, session.answered(), strict=True):
        assert _held(row, answer) == _expected(answer)
        assert _prompt(row) == (answer.asked.get("prompt") or answer.asked["messages"])
        assert _said(row) == answer.text() and _within(row, answer)
        assert row["provider_request_id"] == answer.id() or answer is session.twice[1]
    assert [r["session_id"] for r in ok[:3]] == ["s_7"] * 3 and "s_7" not in {r["session_id"] for r in ok[3:]}
    assert [r["served_from_response_cache"] for r in ok] == [False] * 8 + [True]


def test_spendlogs_tell_failures(session: Session, ingest: Ingest) -> None:
    """A request that failed is a row with an empty call_type, in the order in which it came."""
    found = ingest(session.rows)
    assert not found.manifest["skipped"]
    failed = [r for r in found.rows if r["status"] != "ok"]
    assert [(r["status"], r["http_status"]) for r in failed] == [("rejected", 400)] * 2
    assert [r["error_type"] for r in failed] == ["ProxyModelNotFoundError", "ContextWindowExceededError"]
    assert {(r["input_tokens"], r["output_tokens"]) for r in failed} == {(None, None)}
    for row, answer in zip(failed, session.refused, strict=True):
        assert answer.sent < row["arrival_ts"].timestamp() < answer.ended + 1
