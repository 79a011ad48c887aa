"""llama.cpp's server: its own log, and the pairs that a client of it writes, against the usage of every answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import MODEL, Answer, ask, chat, conversation, hang_up, jsonl, lines, llama_cpp, streamed, until

Ingest = Callable[..., Any]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Session(NamedTuple):
    """What was asked of one server, in order, and the log it wrote meanwhile."""

    turns: list[Answer]  # of one conversation: each prompt goes on from the one before
    others: list[Answer]
    pair: Answer  # a chat that asks for two answers to one prompt
    refused: Answer  # a prompt that is too long
    log: Path

    def answered(self) -> list[Answer]:
        return [*self.turns, *self.others, self.pair]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("llamacpp")
    log = folder / "llama-server.log"
    text = {"model": "tiny", "prompt": "def read(path):", "max_tokens": 4, "temperature": 0}
    with llama_cpp(folder) as port:
        turns = conversation(3, lambda body: ask(port, CHAT, body))
        others = [
            ask(port, CHAT, streamed(chat("Grüße, 世界 🙂: quote \"this\" and 'that'", max_tokens=5))),
            ask(port, CHAT, chat("Say something about lists of files.", cache_prompt=False)),
            ask(port, CHAT, chat("Say something about lists of strings.", max_tokens=1)),
            ask(port, TEXT, text),
            ask(port, TEXT, streamed(text | {"max_tokens": 6})),
        ]
        pair = ask(port, CHAT, chat("Say two things.", n=2, temperature=1, seed=3))
        refused = ask(port, CHAT, chat("import os " * 6000))
        hang_up(port, CHAT, streamed(chat("Count the files, all of them.", max_tokens=3000)), after=6)
        # eleven requests, of which one has two sequences: as many slots are let go
        until("the end of the request whose client hung up", log, lambda: _released(log) == 12)
    assert [a.status for a in (*turns, *others, pair)] == [200] * 9 and refused.status == 400
    return Session(turns, others, pair, refused, log)


def _released(log: Path) -> int:
    return sum(" release: " in line for line in lines(log))


def _timings(answer: Answer) -> dict[str, Any]:
    """The server's own account of an answer, finer than its usage."""
    said = answer.events() or [answer.body()]
    found: dict[str, Any] = next(e["timings"] for e in reversed(said) if "timings" in e)
    return found


def _tokens(answers: list[Answer]) -> list[tuple[int, int, int]]:
    """Prompt, cached and generated tokens as the server counted them."""
    usages = [a.usage() for a in answers]
    return [(u["prompt_tokens"], u["cached"], u["completion_tokens"]) for u in usages]


def _read(rows: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(r["input_tokens"], r["cached_input_tokens"], r["output_tokens"]) for r in rows]


def test_its_log_tells_the_tokens_of_every_request(session: Session, ingest: Ingest) -> None:
    """Whole prompts, cached parts and answers, from timing lines that count neither prompts nor cached parts."""
    found = ingest(session.log)
    assert found.format() == "llamacpp-log" and not found.manifest["rejects"]
    ok = [r for r in found.rows if r["status"] == "ok"]
    plain = session.turns + session.others
    assert _read(ok[: len(plain)]) == _tokens(plain)
    assert session.turns[1].usage()["cached"] > 100
    # the server's usage counts one of the two answers
    (two,) = ok[len(plain) :]
    assert (two["input_tokens"], two["cached_input_tokens"]) == _tokens([session.pair])[0][:2]


def test_its_log_tells_what_was_refused_and_what_was_cut(session: Session, ingest: Ingest) -> None:
    """A prompt that was too long and a client that hung up leave no timing line: no tokens are made up for them."""
    rows = ingest(session.log).rows
    assert [r["status"] for r in rows] == ["ok"] * 9 + ["rejected", "cancelled"]
    assert [r["output_tokens"] for r in rows[-2:]] == [None, None]
    # how long the refused prompt was, its error line tells
    sizes = [session.refused.body()["error"]["n_prompt_tokens"], None]
    assert [r["input_tokens"] for r in rows[-2:]] == sizes


def test_its_log_tells_the_time_to_the_first_token(session: Session, ingest: Ingest) -> None:
    """As the server's answers put it, to a hundredth of a millisecond; the log's clock starts with the process."""
    rows = ingest(session.log).rows
    assert {r["clock"] for r in rows} == {"relative"}
    for row, answer in zip(rows, session.turns + session.others, strict=False):
        assert row["ttft_us"] == pytest.approx(_timings(answer)["prompt_ms"] * 1000, abs=11)


def _pairs(folder: Path, session: Session) -> Path:
    """The log that a client might keep: bodies as sent, answers as they came, a stream as its text."""
    records = []
    for number, a in enumerate([*session.answered(), session.refused]):
        records.append(
            {
                "timestamp": datetime.fromtimestamp(a.sent, UTC).isoformat(),
                "request_id": f"r{number}",
                "session_id": "s1" if a in session.turns else None,
                "status_code": a.status,
                "latency_ms": (a.ended - a.sent) * 1000,
                "ttft_ms": (a.first - a.sent) * 1000 if a.asked.get("stream") else None,
                "request": a.asked,
                "response": a.said if a.asked.get("stream") else a.body(),
            }
        )
    return jsonl(folder / "pairs.jsonl", records)


def test_pairs_tell_what_the_client_saw(session: Session, ingest: Ingest, tmp_path: Path) -> None:
    """Usage, text, streams, times and failures of requests and answers kept by the client."""
    found = ingest(_pairs(tmp_path, session))
    assert found.format() == "openai" and not found.manifest["rejects"]
    rows = found.rows
    assert [r["request_id"] for r in rows] == [f"r{n}" for n in range(10)]
    assert _read(rows[:-1]) == _tokens(session.answered())
    for row, a in zip(rows, session.answered(), strict=False):
        said = json.loads(row["output_json"])
        assert (said[0] if isinstance(said, list) else said)["content"] == a.text()
        assert (row["status"], row["http_status"], row["finish_reason"]) == ("ok", 200, "length")
        assert bool(row["stream"]) == bool(a.asked.get("stream"))
        assert row["provider_request_id"] == a.id() and row["model_served"] == "tiny"
        assert row["operation"] == ("chat" if a.path == CHAT else "text")
        assert row["arrival_ts"].timestamp() == pytest.approx(a.sent, abs=1e-5)
        assert row["e2e_us"] == pytest.approx((a.ended - a.sent) * 1e6, abs=2)
        if row["stream"]:
            assert row["ttft_us"] == pytest.approx((a.first - a.sent) * 1e6, abs=2)
    assert [r["session_id"] for r in rows] == ["s1"] * 3 + [None] * 7
    refused = rows[-1]
    assert (refused["status"], refused["http_status"]) == ("rejected", 400)
    assert refused["error_type"] == "exceed_context_size_error" and refused["output_tokens"] is None


def test_pairs_tokenized_here_count_as_the_server_counts(
    session: Session, ingest: Ingest, tmp_path: Path
) -> None:
    """The chat template and the tokenizer of a model give the very prompt lengths that its server reports."""
    found = ingest(_pairs(tmp_path, session), "--privacy", "tokens", "--tokenizer", MODEL)
    served = session.answered()
    assert [len(r["input_ids"]) for r in found.rows[:9]] == [a.usage()["prompt_tokens"] for a in served]
    # the server's cache holds prompts and, for what they go on with, answers: it has at least the shared prompts
    for before, row, answer in zip(found.rows, found.rows[1:], session.turns[1:], strict=False):
        shared = _shared(before["input_ids"], row["input_ids"])
        assert shared == len(before["input_ids"]) <= answer.usage()["cached"] < len(row["input_ids"])


def _shared(one: list[int], other: list[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
