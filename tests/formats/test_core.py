"""What all formats stand on: rejects that cost no memory, times in digits, streams, and files that are no logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES, jsonl, pair, reasons, rows, table

from traceprof import bodies, runs, sources
from traceprof.errors import TraceprofError
from traceprof.formats.base import parse_time
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]


def batch_line(number: int) -> dict[str, Any]:
    """A line of an OpenAI batch input file."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"q{number}"}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def span(number: int, end: str) -> dict[str, Any]:
    """An OpenTelemetry span of a model call, without text."""
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    attributes = [{"key": k, "value": {"stringValue": v}} for k, v in said.items()]
    ids = {"traceId": f"{number:032x}", "spanId": f"{number:016x}"}
    return {
        **ids, "name": "chat", "startTimeUnixNano": "1787313600000000000", "endTimeUnixNano": end,
        "attributes": attributes,
    }  # fmt: skip


def test_a_record_is_kept_once_however_many_rejects_it_has(ingested: Ingested) -> None:
    """A batch of spans whose every span is wrong: its text stands at the first reject, not at each."""
    spans = [span(n, "1787313599000000000") for n in range(1, 301)] + [span(301, "1787313601000000000")]
    line = {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"spans": spans}]}]}
    trace = ingested([line])
    assert trace.manifest["requests"] == 1
    assert reasons(trace) == {"end_before_arrival": 300}
    kept = table(trace, "rejects")["raw"].drop_nulls().to_list()
    assert [json.loads(raw) for raw in kept] == [line]


def test_rejects_of_a_joined_format_are_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of another kind are set aside in pieces of bounded size, not kept until the end of the log."""
    log = tmp_path / "batch.jsonl"
    log.write_bytes(
        jsonl(batch_line(n) if n % 10 == 0 else {"noise": n, "pad": "x" * 500} for n in range(400))
    )
    monkeypatch.setattr(runs, "_REJECT_BYTES", 2_000)
    held = []
    flush = runs.RunWriter._flush_rejects

    def watched(writer: runs.RunWriter) -> None:
        held.append(writer._rejected)
        flush(writer)

    monkeypatch.setattr(runs.RunWriter, "_flush_rejects", watched)
    trace = ingest([log], tmp_path / "trace", Options())
    assert trace.manifest["requests"] == 40
    assert reasons(trace) == {"missing_field": 360}
    assert len(held) > 70 and max(held) < 3_000
    raw = table(trace, "rejects").sort("source_row")["raw"].to_list()
    assert [json.loads(one)["noise"] for one in raw] == [n for n in range(400) if n % 10]


def test_records_on_one_line_of_a_joined_format(ingested: Ingested) -> None:
    """Each of several records on a line is set aside as itself."""
    lines = [[batch_line(1), {"noise": 1}, 5], [batch_line(2)], []]
    trace = ingested(lines)
    assert trace.manifest["requests"] == 2
    assert table(trace, "rejects").sort("raw")["raw"].to_list() == ["5", '{"noise":1}']
    assert trace.manifest["skipped_by_reason"] == {"empty_list": 1}


@pytest.mark.parametrize(
    ("written", "us"),
    [
        ("1712010100123", 1_712_010_100_123_000),  # ISO 8601 would read it as a day of the year 1712
        ("1712010112123456789", 1_712_010_112_123_456),
        ("1787313600.5", 1_787_313_600_500_000),
        ("20260821", 1_787_270_400_000_000),
        ("20260821T120000Z", 1_787_313_600_000_000),
    ],
)
def test_times_in_digits(written: str, us: int) -> None:
    """Ten digits or more are a number, whatever day they would spell; a day, and a day with its time, stay ISO 8601."""
    assert parse_time(written, "time")[0] == us


def test_line_separators_in_a_stream_are_text() -> None:
    """U+2028 and U+0085 stand in JSON as they are, and end no line of a stream."""
    said = "a\u2028b\u0085c"
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": said}}]}
    last = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    }
    words = [json.dumps(one, ensure_ascii=False) for one in (chunk, last)]
    for stream in ("".join(f"data: {one}\n\n" for one in words), "\r\n".join(words)):
        got = bodies.answer(stream)
        assert got is not None
        assert got["choices"] == [{"index": 0, "finish_reason": "stop", "message": {"content": said}}]


@pytest.mark.parametrize("size", [7, 37, 10_000])
def test_a_stream_in_pieces_of_the_network(size: int) -> None:
    """Pieces that end inside an event are one stream; pieces of whole events, with or without their newlines, stay so."""
    chunks = [
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}
        for word in ("It ", "comes ", "on ", "Monday.")
    ]
    events = [f"data: {json.dumps(one)}\n\n" for one in chunks] + ["data: [DONE]\n\n"]
    stream = "".join(events)
    torn = [stream[i : i + size] for i in range(0, len(stream), size)]
    for pieces in (torn, events, [one.strip() for one in events]):
        got = bodies.answer(pieces)
        assert got is not None and got["choices"][0]["message"] == {"content": "It comes on Monday."}


NO_LOGS: dict[str, Any] = {
    "translations": {"messages": {"hello": "Hallo"}},
    "eslint": [{"filePath": "/a.js", "messages": [{"ruleId": "x", "message": "bad", "line": 1}]}],
    "slack": {"channel": "c", "messages": [{"type": "message", "user": "U1", "text": "hello"}]},
    "kafka": {"messages": [{"key": "a", "value": "b"}], "partition": 1},
    "react-intl": [{"id": "hello", "defaultMessage": "Hello", "messages": "x"}],
    "an example in a README": {"messages": []},
    "postman": {
        "item": [{"name": "chat", "request": {"method": "POST", "body": {"raw": '{"messages": []}'}}}]
    },
}


@pytest.mark.parametrize("name", NO_LOGS)
def test_what_has_messages_is_not_yet_a_log(name: str, tmp_path: Path) -> None:
    """Messages without roles and without a model are other programs' own, and their files are not read."""
    log = tmp_path / "file.json"
    log.write_text(json.dumps(NO_LOGS[name], indent=2))
    assert sources.sniff(sources.Source(log, log.name, True, log.stat().st_size)).format is None


def test_objects_with_nothing_between_them(tmp_path: Path) -> None:
    """Firehose writes records without newlines: each is one, also where the first MB ends inside one."""
    log = tmp_path / "log"
    for pad in (1, 40_000):
        body = {"model": "m", "messages": [{"role": "user", "content": "w" * pad}]}
        records = [pair(n, request=body, request_id=f"r{n}") for n in range(40)]
        log.write_bytes(b"".join(json.dumps(one).encode() for one in records))
        trace = ingest([log], tmp_path / "trace", Options())
        assert sorted(row["request_id"] for row in rows(trace)) == sorted(f"r{n}" for n in range(40))
        assert trace.manifest["rejects"] == 0


def test_access_lines_after_a_collectors_time(ingested: Ingested) -> None:
    """APISIX's access log reads the same out of Docker's and Kubernetes' envelopes."""
    lines = (SAMPLES / "apisix-access.log").read_text().splitlines()
    plain = rows(ingested(("\n".join(lines) + "\n").encode()))
    at = "2026-08-21T10:00:00.1Z"
    for wrapped in (
        [json.dumps({"log": f"{line}\n", "stream": "stdout", "time": at}) for line in lines],
        [f"{at} stdout F {line}" for line in lines],
    ):
        found = rows(ingested(("\n".join(wrapped) + "\n").encode()))
        assert found and [q["arrival_ts"] for q in found] == [q["arrival_ts"] for q in plain]


def test_what_is_no_object_in_a_mapped_list_is_no_request(tmp_path: Path) -> None:
    """Elements of `each` are objects, also as JSON in a text; anything else is set aside, whatever its record tells."""
    (tmp_path / "map.toml").write_text(
        'each = "calls"\n[fields]\nprompt = "p"\narrival = {path = "^.at", unit = "s"}\n'
    )
    log = tmp_path / "log.jsonl"
    log.write_bytes(jsonl([{"at": 1787313600, "calls": [{"p": "a"}, '{"p": "b"}', "c", None, 5]}]))
    trace = ingest([log], tmp_path / "trace", Options(map=tmp_path / "map.toml"))
    assert [row["prompt_text"] for row in rows(trace, "content")] == ["a", "b"]
    assert reasons(trace) == {"wrong_type": 3}


def test_prose_beside_logs_is_not_read(tmp_path: Path) -> None:
    """A README with an example of a record is no log in a folder; named itself, it is looked at."""
    body = '{"model": "m", "messages": [{"role": "user", "content": "x"}]}\n'
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "README.md").write_text(body)
    (tmp_path / "logs" / "a.jsonl").write_text(body)
    trace = ingest([tmp_path / "logs"], tmp_path / "t")
    assert trace.manifest["requests"] == 1 and "prose" in trace.manifest["sources"][0]["detected_by"]
    assert ingest([tmp_path / "logs" / "README.md"], tmp_path / "t").manifest["requests"] == 1


def test_a_first_record_over_the_limit_is_told_as_such(tmp_path: Path) -> None:
    """The message names the option that helps, and the option helps."""
    log = tmp_path / "a.json"
    log.write_text(json.dumps([{"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]}]))
    with pytest.raises(TraceprofError, match="--max-record-bytes"):
        ingest([log], tmp_path / "t", Options(max_record_bytes=1_000_000))
    assert ingest([log], tmp_path / "t", Options(max_record_bytes=4_000_000)).manifest["requests"] == 1
