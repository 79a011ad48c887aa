"""Containers and envelopes: what holds the records of a log, and what collectors wrap around each line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import pair, reasons, rows
from hypothesis import given
from hypothesis import strategies as st

from traceprof import envelopes, formats, sources
from traceprof.trace import Trace

Ingested = Callable[..., Trace]
AT = "2026-08-21T12:00:00.5Z"


def docker(line: str) -> list[str]:
    """Docker's json-file driver, which splits lines of more than 16 KB; here 20 characters."""
    pieces = [line[i : i + 20] for i in range(0, len(line), 20)]
    pieces[-1] += "\n"
    return [json.dumps({"log": piece, "stream": "stdout", "time": AT}) for piece in pieces]


def cri(line: str) -> list[str]:
    """Kubernetes' CRI log, which marks pieces with P."""
    middle = len(line) // 2
    return [f"{AT} stdout P {line[:middle]}", f"{AT} stdout F {line[middle:]}"]


WRAPPED: dict[str, Callable[[str], list[str]]] = {
    "docker": docker,
    "cri": cri,
    "compose": lambda line: [f"vllm-1  | {line}"],
    "coloured compose": lambda line: [f"\x1b[36mvllm-1  |\x1b[0m {line}"],
    "journald": lambda line: [json.dumps({"MESSAGE": line, "__REALTIME_TIMESTAMP": "1787313600500000"})],
    "journald bytes": lambda line: [json.dumps({"MESSAGE": list(line.encode()), "PRIORITY": "6"})],
    "syslog": lambda line: [f"Aug 21 12:00:00 host vllm[17]: {line}"],
    "docker -t": lambda line: [f"{AT} {line}"],
    "filebeat": lambda line: [json.dumps({"@timestamp": AT, "message": line, "host": {"name": "a"}})],
    "cloudwatch": lambda line: [json.dumps({"@timestamp": AT, "@message": line, "@logStream": "s"})],
    "cloud logging": lambda line: [json.dumps({"jsonPayload": json.loads(line), "timestamp": AT})],
    "prefix": lambda line: [f"[2026-08-21 12:00:00] INFO gateway: {line}"],
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_log_in_an_envelope_reads_as_the_log(name: str, ingested: Ingested) -> None:
    """The same requests, each at the line that it starts on; lines that are no envelope are told as rejects."""
    log = [pair(n, app="naïve ☃") for n in range(1, 4)]
    plain = ingested(log)
    wrap = WRAPPED[name]
    wrapped = [wrap(json.dumps(record)) for record in log]
    lines = [line for group in wrapped for line in group]
    trace = ingested(("\n".join(lines) + "\n").encode())
    assert trace.manifest["sources"][0]["detected_by"].startswith(
        "3 of 3 sampled records, each in an envelope"
    )
    assert [r["row_id"] for r in rows(trace)] != []
    same = ("request_id", "arrival_ts", "messages_json", "output_json", "app")
    for kind in ("requests", "content"):
        for one, other in zip(rows(trace, kind), rows(plain, kind), strict=True):
            assert {k: one[k] for k in same if k in one} == {k: other[k] for k in same if k in other}
    ends = [sum(len(group) for group in wrapped[: n + 1]) for n in range(3)]
    assert [r["source_row"] for r in rows(trace)] == ends
    broken = ingested(("\n".join([*lines, "a stranger"]) + "\n").encode())
    assert (
        reasons(broken) == {"invalid_json": 1} and rows(broken, "rejects")[0]["source_row"] == len(lines) + 1
    )


def test_streams_of_one_container_are_joined_apart() -> None:
    """Pieces on stdout and stderr may stand between one another; what never ends is kept."""
    lines = [b"T1Z stdout P a", b"T2Z stderr P x", b"T1Z stdout F b", b"T2Z stderr F y", b"T3Z stdout P lost"]
    lines = [line.replace(b"T", b"2026-08-21T12:00:0", 1) for line in lines]
    out = list(envelopes.unwrapped(iter(lines), "cri"))
    assert out == [
        b"",
        b"",
        b"2026-08-21T12:00:01Z ab",
        b"2026-08-21T12:00:02Z xy",
        b"",
        b"2026-08-21T12:00:03Z lost",
    ]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=20),
    st.integers(1, 60),
)
def test_lines_survive_any_cut_of_the_stream(lines: list[str], size: int) -> None:
    """However the stream is read, the lines of the file come out, in order and number."""
    data = "".join(line + "\n" for line in lines).encode()

    class Dribble(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            return super().read(min(size, n or size))

    stream = envelopes.Unwrapped(Dribble(data), "cri")
    out = b""
    while block := stream.read(7):
        assert block.endswith(b"\n")
        out += block
    expected = data.split(b"\n")
    assert [envelopes._ANSI.sub(b"", line) for line in expected[:-1]] == out.split(b"\n")[:-1]


def test_parquet_reads_as_json_lines(ingested: Ingested, tmp_path: Path) -> None:
    """Rows of a Parquet file are records: columns that are null are not there, times are times, rows count from 1."""
    log = [pair(n) for n in range(1, 41)]
    plain = ingested(log)
    table = pa.table(
        {
            "timestamp": pa.array([r["timestamp"] for r in log]).cast(pa.timestamp("us", "UTC")),
            "request_id": [r["request_id"] for r in log],
            "latency_ms": [r["latency_ms"] for r in log],
            "status_code": [200] * 40,
            "request": [json.dumps(r["request"]) for r in log],
            "response": [r["response"] for r in log],
            "tags": pa.array([[("a", "b")]] * 40, pa.map_(pa.string(), pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=16)
    trace = ingested(tmp_path / "log.parquet")
    assert trace.manifest["sources"][0]["container"] == "parquet"
    assert [r["source_row"] for r in rows(trace)] == list(range(1, 41))
    for kind, keys in (
        ("requests", ("request_id", "arrival_ts", "end_ts", "status")),
        ("content", ("messages_json", "output_json")),
    ):
        got, expected = ([{k: r[k] for k in keys} for r in rows(t, kind)] for t in (trace, plain))
        assert got == expected


def test_a_file_that_may_be_of_two_formats(monkeypatch: pytest.MonkeyPatch, ingested: Ingested) -> None:
    """Nobody guesses: the error names both, and --format decides."""
    from traceprof.errors import TraceprofError
    from traceprof.formats import litellm, mooncake

    for module in (litellm, mooncake):
        monkeypatch.setattr(module, "detect", lambda record: "hash_ids" in record)
    log = [{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [1]}]
    with pytest.raises(TraceprofError, match=r"could be litellm or mooncake: 1 of 1 .*--format"):
        ingested(log)
    assert set(ingested(log, format="mooncake").manifest["formats"]) == {"mooncake"}


def test_lines_of_text_go_to_formats_that_read_lines(
    monkeypatch: pytest.MonkeyPatch, ingested: Ingested
) -> None:
    """A text log is told by its lines, comes whole to the format, and every line is accounted for."""
    from traceprof.formats import mooncake
    from traceprof.formats.base import Request, Skip

    def read_all(records):  # type: ignore[no-untyped-def]
        for record in records:
            known = isinstance(record.value, str) and record.value.startswith("GEN ")
            yield record, Request(request_id=record.value[4:]) if known else Skip("other_line")

    monkeypatch.setattr(mooncake, "lines", True, raising=False)
    monkeypatch.setattr(mooncake, "read_all", read_all, raising=False)
    monkeypatch.setattr(
        mooncake, "detect", lambda record: isinstance(record, str) and record.startswith("GEN ")
    )
    assert formats.claims("GEN 1") == ["mooncake"] and formats.claims("hello, world") == []
    assert sources.sample(b"started, ok\nGEN 1\nGEN 2\n", True) == ("text", ["GEN 1", "GEN 2"])
    trace = ingested(b'started, ok\n\nGEN 1\r\n{"level": 1}\nGEN 2\nbad \xff\n')
    assert trace.manifest["sources"][0]["container"] == "text"
    assert [(r["source_row"], r["request_id"]) for r in rows(trace)] == [(3, "1"), (5, "2")]
    assert trace.manifest["skipped_by_reason"] == {"other_line": 2} and reasons(trace) == {"invalid_utf8": 1}
