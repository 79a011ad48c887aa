"""Instrumentations of the OpenAI client before llama.cpp's server: spans and logs as the OpenTelemetry SDK exports them.

The SDK's own exporter of OTLP JSON to files writes them (opentelemetry-exporter-otlp-json-file).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers
from servers import lines, llama_cpp

Ingest = Callable[..., Any]
KINDS = ("openai_v2", "openai_v2_latest", "openinference", "openllmetry")
TELLS_OF_THE_CACHE = ("openinference", "openllmetry")  # openai-v2 2.4b0 leaves cached tokens out
TELLS_THE_FIRST_TOKEN = ("openinference", "openllmetry")


class Session(NamedTuple):
    """What a client saw of its calls, and what its instrumentation wrote."""

    kind: str
    seen: list[dict[str, Any]]
    spans: Path
    logs: list[Path]  # none where all is in the spans


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The server's URL, and the folder that its log is in."""
    folder = tmp_path_factory.mktemp("otel")
    with llama_cpp(folder) as port:
        yield f"http://127.0.0.1:{port}/v1", folder


@pytest.fixture(scope="module", params=KINDS)
def session(request: pytest.FixtureRequest, server: tuple[str, Path]) -> Session:
    kind, (url, above) = request.param, server
    folder, log = above / kind, above / f"{kind}.log"
    folder.mkdir()
    words = [servers.python("otel"), str(servers.HERE / "otel_client.py"), kind, url, str(folder)]
    with log.open("wb") as out:
        done = subprocess.run(
            words, stdout=out, stderr=out, env=servers.environment(), timeout=120, check=False
        )
    if done.returncode:
        servers.failed(f"the client under {kind} ended with {done.returncode}", log)
    seen = [json.loads(line) for line in lines(folder / "seen.jsonl")]
    logs = [path for path in [folder / "logs.jsonl"] if lines(path)]
    assert len(seen) == 4 and bool(logs) == kind.startswith("openai_v2")
    return Session(kind, seen, folder / "spans.jsonl", logs)


def test_spans_and_logs_tell_the_calls(session: Session, ingest: Ingest) -> None:
    """Every call once, with the tokens, the text and the times that the client saw; log records join their span."""
    found = ingest(session.spans, *session.logs)
    assert found.format() == "otlp" and not found.manifest["rejects"]
    assert set(found.manifest["skipped_by_reason"]) <= {"joined_to_its_request"}
    assert len(found.rows) == len(session.seen)
    for row, seen in zip(found.rows, session.seen[:3], strict=False):
        assert (row["status"], row["operation"], row["finish_reason"]) == ("ok", "chat", "length")
        assert row["provider_request_id"] == seen["id"]
        assert row["model_requested"] == row["model_served"] == "tiny"
        assert row["input_tokens"] == seen["usage"]["prompt_tokens"]
        assert row["output_tokens"] == seen["usage"]["completion_tokens"]
        assert row["max_output_tokens"] == seen["asked"]["max_tokens"]
        assert row["params"]["temperature"] == 0
        assert json.loads(row["messages_json"]) == seen["asked"]["messages"]
        assert json.loads(row["output_json"])["content"] == seen["text"]
        assert seen["sent"] < row["arrival_ts"].timestamp() < row["end_ts"].timestamp() < seen["ended"] + 0.05


def test_spans_tell_the_cached_part(session: Session, ingest: Ingest) -> None:
    """Where an instrumentation tells of the cache, what the server's usage said; where it does not, nothing."""
    rows = ingest(session.spans, *session.logs).rows
    cached = [s["usage"]["prompt_tokens_details"]["cached_tokens"] for s in session.seen[:3]]
    assert cached[1] > 100
    told = cached if session.kind in TELLS_OF_THE_CACHE else [None] * 3
    assert [r["cached_input_tokens"] for r in rows[:3]] == told


def test_spans_tell_the_first_token_of_streams(session: Session, ingest: Ingest) -> None:
    """Where an instrumentation marks the first chunk; the other calls have none."""
    rows = ingest(session.spans, *session.logs).rows
    firsts = [r["first_token_ts"] is not None for r in rows]
    assert firsts == [session.kind in TELLS_THE_FIRST_TOKEN, False, False, False]
    if firsts[0]:
        assert rows[0]["arrival_ts"] < rows[0]["first_token_ts"] < rows[0]["end_ts"]
        assert rows[0]["stream"] is True


def test_spans_tell_failures(session: Session, ingest: Ingest) -> None:
    """A call that the server refused: no tokens, and the prompt that was too long."""
    refused = ingest(session.spans, *session.logs).rows[3]
    assert (refused["status"], refused["http_status"]) == ("rejected", 400)
    assert refused["error_type"] == session.seen[3]["error"] == "BadRequestError"
    assert (refused["input_tokens"], refused["output_tokens"]) == (None, None)
    assert json.loads(refused["messages_json"]) == session.seen[3]["asked"]["messages"]


def test_spans_tell_sessions(session: Session, ingest: Ingest) -> None:
    """OpenInference's session and user; without one, a trace of its own for every call."""
    rows = ingest(session.spans, *session.logs).rows
    if session.kind == "openinference":
        assert {(r["session_id"], r["session_kind"], r["user_id"]) for r in rows} == {
            ("s_7", "explicit", "u_81")
        }
    else:
        assert len({r["session_id"] for r in rows}) == 4 and {r["session_kind"] for r in rows} == {"trace"}
