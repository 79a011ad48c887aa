"""Each format over its sample, by one test; then the facts that only one format has."""

from __future__ import annotations

import ast
import base64
import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import FORMATS, LABELS, SAMPLES, asked, pair, reasons, rows, sample_records

from traceprof import bodies, formats, sources
from traceprof.formats.base import Has
from traceprof.ingest import ingest
from traceprof.trace import Trace

GOLDEN = Path(__file__).parent / "golden"
Ingested = Callable[..., Trace]


records = sample_records


# -- every format --------------------------------------------------------------------------------------------


def brief(value: Any) -> Any:
    """A value for a golden file: long text and lists by length and digest, so that the file can be read."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {k: brief(v) for k, v in value.items() if v is not None}
    if isinstance(value, (str, list)) and len(value) > (300 if isinstance(value, str) else 24):
        body = value if isinstance(value, str) else json.dumps(value)
        return {"length": len(value), "digest": hashlib.blake2b(body.encode(), digest_size=8).hexdigest()}
    return value


def seen(trace: Trace) -> dict[str, Any]:
    """Everything that a trace says: counts, rejects, and the non-null columns of all its rows."""
    merged = []
    sides = [rows(trace, kind) for kind in ("requests", "content", "tokens")]
    for i, request in enumerate(sides[0]):
        row = dict(request)
        for side in sides[1:]:
            row.update(side[i] if side else {})
        row.pop("row", None)
        merged.append({k: brief(v) for k, v in row.items() if v is not None and v != []})
    digest = hashlib.blake2b(json.dumps(merged).encode(), digest_size=16).hexdigest()
    counts = ("records_in", "requests", "rejects", "skipped", "rejects_by_reason", "skipped_by_reason")
    return {
        "counts": {k: trace.manifest[k] for k in counts},
        "rejects": [brief(r) for r in rows(trace, "rejects")],
        "rows": merged[:25],
        "digest_of_all_rows": digest,
    }


def containers(plain: bytes) -> dict[str, bytes]:
    """The same log in every wrapping that must change nothing."""
    lf = plain.replace(b"\r\n", b"\n")
    return {
        "gz": gzip.compress(plain),
        "two gz members": gzip.compress(plain[:999]) + gzip.compress(plain[999:]),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zst": pa.compress(plain, codec="zstd", asbytes=True),
        "BOM": b"\xef\xbb\xbf" + plain,
        "LF": lf,
        "CRLF": lf.replace(b"\n", b"\r\n"),
        "no final newline": plain.rstrip(),
        "blank line at the end": plain + b"\n\n",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_format(name: str, ingested: Ingested, update: bool) -> None:
    """A sample is told by content, read as its golden file says, and read the same in every wrapping."""
    path = SAMPLES / FORMATS[name]
    trace = ingested(path, **asked(name))
    label = name.split(".")[0]
    assert [s["format"] for s in trace.manifest["sources"]] == [label]
    assert set(trace.manifest["formats"]) == {label}
    found = json.loads(json.dumps(seen(trace)))
    golden = GOLDEN / f"{name}.json"
    if update:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert found == json.loads(golden.read_text("utf-8"))
    again = ingested(path, **asked(name))
    assert [r["row_id"] for r in rows(again)] == [r["row_id"] for r in rows(trace)]
    assert (
        seen(ingested(path, **{**asked(name), "format": label}))["digest_of_all_rows"]
        == found["digest_of_all_rows"]
    )
    for wrapping, log in containers(path.read_bytes()).items() if path.suffix != ".parquet" else ():
        other = seen(ingested(log, path.name, **asked(name)))
        assert other["rows"] == found["rows"], wrapping
        assert other["digest_of_all_rows"] == found["digest_of_all_rows"], wrapping
        assert other["counts"] == found["counts"], wrapping


@pytest.mark.parametrize("label", LABELS)
def test_a_format_says_what_it_has(label: str, ingested: Ingested) -> None:
    """`has` promises exactly what the samples hold, so that no measure runs on what is not there."""
    has = formats.load(label).has
    files = [file for name, file in FORMATS.items() if name.split(".")[0] == label]
    if label == "openai":
        files += ["chat.jsonl", "planted.jsonl"]
    if label == "servegen":
        files += ["servegen"]  # the two files of one client
    traces = [ingested(SAMPLES / file, **asked(label)) for file in files]
    requests, content, tokens = (
        [row for trace in traces for row in rows(trace, kind)] for kind in ("requests", "content", "tokens")
    )
    timed = [
        r for r in requests if r["clock"] in ("absolute", "relative") and r["arrival_offset_us"] is not None
    ]
    text = [c for c in content if c["messages_json"] is not None or c["prompt_text"] is not None]
    ends = [
        r
        for r in requests
        if r["end_ts"] is not None or (r["clock"] in ("relative", "session") and r["e2e_us"] is not None)
    ]
    for flag, found in (
        (Has.ARRIVALS, timed),
        (Has.ENDS, ends),
        (Has.TEXT, text),
        (
            Has.OUTPUTS,
            [c for c in content if c["output_json"] is not None]
            + [t for t in tokens if t["output_ids"] is not None],
        ),
        (Has.TOKENS, [t for t in tokens if t["input_ids"] is not None]),
        (Has.BLOCKS, [t for t in tokens if t["block_hashes"] is not None]),
        (Has.LENGTHS, [r for r in requests if r["input_tokens"] is not None]),
        (Has.SESSIONS, [r for r in requests if r["session_id"] is not None]),
    ):
        assert bool(found) == (flag in has), flag


@pytest.mark.parametrize("name", FORMATS)
def test_no_two_formats_claim_a_record(name: str) -> None:
    """Records of a sample are told apart from every other format; at most one claims each, and most are claimed."""
    path = SAMPLES / FORMATS[name]
    found = sources.look(path)
    assert found.container and found.records
    claimed = [formats.claims(record) for record in found.records]
    assert all(len(names) <= 1 for names in claimed), claimed
    if name.startswith("mapping"):  # a map is given, not found
        assert not any(claimed)
        return
    mine = name.split(".")[0].replace("-", "_")
    assert sum(names == [mine] for names in claimed) > len(claimed) / 2


def said(name: str) -> list[list[dict[str, Any]]]:
    """The message lists of a sample's requests, in the order of the log."""
    log = records(name)
    if name == "conversation":
        turns = [r["messages"] for r in log]
        return [t[:k] for t in turns for k, m in enumerate(t) if m["role"] == "assistant" and k]
    if name == "openai-batch":
        return [r["body"]["messages"] for r in log if "messages" in r.get("body", {})]
    if name == "litellm":
        return [r["messages"] for r in log if r["call_type"] != "atext_completion"]
    return [r["request"]["messages"] for r in log]


@pytest.mark.parametrize("name", ["openai", "openai-batch", "conversation", "litellm"])
def test_text_goes_round(name: str, ingested: Ingested) -> None:
    """messages_json is the log's messages: same text, parts, tool calls, unicode, and order of keys."""
    trace = ingested(SAMPLES / FORMATS[name], order="file")
    places = [(r["source_row"], r["turn_index"] or 0) for r in rows(trace)]
    kept = [c["messages_json"] for c in rows(trace, "content")]
    in_order = [m for _, m in sorted(zip(places, kept, strict=True), key=lambda p: p[0]) if m is not None]
    assert [json.dumps(json.loads(m)) for m in in_order] == [json.dumps(m) for m in said(name)]


def leaves(value: Any) -> Iterator[str]:
    """Every string in a value, also of JSON and of streams that stand as text in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str):
        inner = bodies.decoded(value)
        if not isinstance(inner, str):
            yield from leaves(inner)
        else:
            yield value
            yield from leaves(bodies.answer(value))  # a stream; joining has a test of its own
            if re.fullmatch(r"[A-Za-z0-9+/]{16,}=*", value):  # SageMaker keeps bodies as base64
                with contextlib.suppress(ValueError):
                    yield from leaves(base64.b64decode(value).decode())
    elif value is not None:
        yield str(value)


TEXTUAL = [name for name in FORMATS if Has.TEXT in formats.load(name.split(".")[0]).has]


@pytest.mark.parametrize("name", TEXTUAL)
def test_every_text_and_tool_call_is_the_logs_own(name: str, ingested: Ingested) -> None:
    """What stands in messages, tool calls, tools and answers stands in the log: nothing is made up, re-coded or lost in quotes."""
    log = "\n".join(text for record in sample_records(name) for text in leaves(record))
    if FORMATS[name].endswith(".log"):
        log += ast.literal_eval('"""' + log.replace('"""', "").replace("\\'", "'").rstrip("\\") + ' """')
    known = set(re.findall(r"\w+", log))
    parts: list[Any] = []
    for row in rows(ingested(SAMPLES / FORMATS[name], **asked(name)), "content"):
        for column in ("messages_json", "tools_json", "output_json"):
            if row[column] is not None:
                parts += [v for v in leaves(json.loads(row[column])) if v not in OWN_WORDS]
        if row["prompt_text"] is not None:
            parts.append(row["prompt_text"])
    assert parts or not any(
        c["messages_json"] for c in rows(ingested(SAMPLES / FORMATS[name], **asked(name)), "content")
    )
    strange = {word for text in parts for word in re.findall(r"\w+", text)} - known
    assert not {w for w in strange if not re.fullmatch(r"[0-9a-f]{32}|\d+", w)}, (
        strange
    )  # digests and sizes of media


# keys and words of the canonical form that the messages of other providers do not have
OWN_WORDS = frozenset(
    ["role", "content", "system", "user", "assistant", "tool", "developer", "tool_calls", "tool_call_id", "id", "type", "function", "name", "arguments",
     "description", "parameters", "text", "sha", "bytes", "reasoning_content", "image", "image_url", "input_image", "file", "audio", "input_audio", "document", "video"]
)  # fmt: skip


def test_samples_are_described() -> None:
    """samples/README.md has a line for every sample, and no sample is large."""
    about = (SAMPLES / "README.md").read_text("utf-8")
    for path in (p for p in SAMPLES.iterdir() if p.is_file() and p.suffix not in (".py", ".md")):
        assert f"| {path.name} |" in about
        assert path.stat().st_size < 150_000
    assert {name.split(".")[0] for name in FORMATS} == set(LABELS)


def test_made_samples_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """chat.jsonl and planted.jsonl are what make_samples.py writes."""
    import runpy

    made = runpy.run_path(str(SAMPLES / "make_samples.py"))
    for name in ("chat", "planted"):
        text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in made[name]())
        assert text == (SAMPLES / f"{name}.jsonl").read_text("utf-8")


def test_planted_hits_are_those_counted_by_hand(tmp_path: Path) -> None:
    """The profile of planted.jsonl has the sums of the table in samples/README.md."""
    from traceprof.profiler import profile

    found = profile(ingest([SAMPLES / "planted.jsonl"], tmp_path / "t"), tmp_path / "p")
    assert found["tokens"]["input"] == 466
    hits = found["prefix"]["hit_tokens"]
    assert (hits["1"], hits["16"], hits["32"]) == (288, 272, 192)
    hits = found["prefix"]["with_outputs"]["hit_tokens"]
    assert (hits["1"], hits["16"], hits["32"]) == (304, 288, 224)
    assert found["prefix"]["by_model"]["planted-b"]["hit_tokens"]["1"] == 100


def test_chat_sample_shows_what_the_demo_needs(ingested: Ingested) -> None:
    """chat.jsonl has two tenants, errors, streams, tools, parts, an image, unicode, and requests in flight together."""
    trace = ingested(SAMPLES / "chat.jsonl")
    requests, content = rows(trace), rows(trace, "content")
    assert len(requests) >= 55 and trace.manifest["skipped_by_reason"] == {"embedding": 1}
    assert {r["tenant_id"] for r in requests} == {"fernweh", "harbor"}
    assert {r["http_status"] for r in requests} == {200, 429, 500}
    assert {r["status"] for r in requests} == {"ok", "rejected", "error"}
    assert all(r["first_token_ts"] is not None for r in requests if r["stream"] and r["status"] == "ok")
    assert any(r["media"] for r in requests) and all(c["tools_json"] for c in content)
    assert any("届け先" in c["messages_json"] for c in content)
    ends = sorted((r["end_ts"], -1) for r in requests)
    starts = sorted((r["arrival_ts"], 1) for r in requests)
    flight = peak = 0
    for _, step in sorted(starts + ends):
        flight += step
        peak = max(peak, flight)
    assert peak > 3


# -- OpenAI pairs --------------------------------------------------------------------------------------------


def one(ingested: Ingested, record: Any, **options: Any) -> dict[str, Any]:
    """The single row of a log of one record, with its content and tokens."""
    trace = ingested([record], **options)
    assert trace.manifest["requests"] == 1, trace.manifest
    row = rows(trace)[0]
    for kind in ("content", "tokens"):
        row.update((rows(trace, kind) or [{}])[0])
    return row


AT = datetime(2026, 8, 21, 12, 0, 1, 250_000, UTC)


@pytest.mark.parametrize(
    "stamp",
    ["2026-08-21T12:00:01.250Z", "2026-08-21T14:00:01.25+02:00", "2026-08-21 12:00:01.250", 1787313601.25,
     1787313601250, 1787313601250000, 1787313601250000000, "1787313601.25", "1787313601250"],
)  # fmt: skip
def test_times_are_read_in_every_unit(stamp: Any, ingested: Ingested) -> None:
    """ISO 8601 with any zone, and epoch numbers in s, ms, us and ns, are one instant; no zone is flagged."""
    row = one(ingested, pair(timestamp=stamp))
    assert row["arrival_ts"] == AT and row["clock"] == "absolute" and row["arrival_quality"] == "measured"
    assert ("tz_assumed" in row["quality"]) == (stamp == "2026-08-21 12:00:01.250")


def test_arrival_end_and_latency_complete_each_other(ingested: Ingested) -> None:
    """Arrival + latency gives the end, end - latency the arrival; each says so."""
    row = one(ingested, pair(1))
    assert (row["end_ts"] - row["arrival_ts"]).total_seconds() == 0.8 and row["e2e_us"] == 800_000
    assert "end_is_arrival_plus_duration" in row["quality"]
    row = one(ingested, pair(1, timestamp=None, end_time="2026-08-21T12:00:02.050Z"))
    assert row["arrival_ts"] == AT and row["arrival_quality"] == "derived"
    assert "arrival_is_end_minus_duration" in row["quality"]
    row = one(ingested, pair(1, latency_ms=None, end_time="2026-08-21T12:00:02Z"))
    assert row["end_ts"] == datetime(2026, 8, 21, 12, 0, 2, tzinfo=UTC)
    assert row["e2e_us"] is None  # as reported; not recomputed


def test_what_the_log_lacks_is_null(ingested: Ingested) -> None:
    """A bare body has no times, no counts, no status: null, never zero."""
    row = one(ingested, {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert row["clock"] == "none" and row["status"] == "unknown"
    for column in (
        "arrival_ts",
        "end_ts",
        "input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "ttft_us",
        "tenant_id",
    ):
        assert row[column] is None, column


def test_first_token(ingested: Ingested) -> None:
    """ttft_ms gives the first token's time; one outside the request is dropped and flagged."""
    row = one(ingested, pair(ttft_ms=120.5))
    assert row["ttft_us"] == 120_500 and (row["first_token_ts"] - row["arrival_ts"]).microseconds == 120_500
    row = one(ingested, pair(ttft_ms=5_000))
    assert row["first_token_ts"] is None and "bad_first_token" in row["quality"]


def test_relative_times_stay_relative(ingested: Ingested) -> None:
    """Small numbers count from the log's start: offsets, durations, no wall clock."""
    trace = ingested([pair(1, timestamp=7.5), pair(2, timestamp=5)])
    first, second = rows(trace)
    assert (first["request_id"], second["request_id"]) == ("r2", "r1")
    assert (first["arrival_offset_us"], second["arrival_offset_us"]) == (0, 2_500_000)
    assert first["clock"] == "relative" and first["arrival_ts"] is None and first["e2e_us"] == 800_000


@pytest.mark.parametrize(
    ("changes", "status", "http", "kind"),
    [
        ({"status_code": 429, "response": {"error": {"type": "tokens", "code": "rate"}}}, "rejected", 429, "tokens"),
        ({"status_code": "500", "response": None}, "error", 500, None),
        ({"status_code": 499, "response": None}, "cancelled", 499, None),
        ({"status_code": None, "error": "boom", "response": None}, "error", None, "error"),
        ({"status_code": None, "status": "failed", "code": 503, "response": None}, "error", 503, None),
        ({"status_code": None}, "ok", None, None),
        ({"status_code": 70_000}, "ok", None, None),
    ],
)  # fmt: skip
def test_outcomes(
    changes: dict[str, Any], status: str, http: int | None, kind: str | None, ingested: Ingested
) -> None:
    """4xx is rejected, 499 cancelled, 5xx an error; an error's type is kept, never its message."""
    row = one(ingested, pair(**changes))
    assert (row["status"], row["http_status"], row["error_type"]) == (status, http, kind)


def test_wrappers_under_other_names(ingested: Ingested) -> None:
    """req/res, input/output, request_body/response_body and HTTP dumps with `body` are found one level down."""
    body, answer = pair()["request"], pair()["response"]
    for record in (
        {"req": body, "res": answer},
        {"input": body, "output": answer},
        {"request_body": body, "response_body": answer},
        {"request": {"headers": {}, "body": body}, "response": {"status": 200, "body": answer}},
        {**body, **answer},
    ):
        row = one(ingested, record)
        assert json.loads(row["messages_json"]) == body["messages"]
        assert json.loads(row["output_json"])["content"] == "answer 1"


def test_tools_keep_their_order_and_keys(ingested: Ingested) -> None:
    """tools_json is the log's list: its order decides what a prefix cache shares."""
    tools = [
        {"type": "function", "function": {"name": n, "parameters": {"z": 1, "a": 2}, "description": "d"}}
        for n in ("zeta", "alpha", "mid")
    ]
    body = {**pair()["request"], "tools": tools}
    assert one(ingested, pair(request=body))["tools_json"] == json.dumps(tools, separators=(",", ":"))
    legacy = {**pair()["request"], "functions": [{"name": "f"}]}
    assert json.loads(one(ingested, pair(request=legacy))["tools_json"])[0]["function"] == {"name": "f"}


def test_media_become_placeholders(ingested: Ingested) -> None:
    """A data: URL becomes {type, sha, bytes}: the same picture the same placeholder, another one another."""

    def ask(url: str) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ]
        return pair(request={"model": "m", "messages": [{"role": "user", "content": parts}]})

    big = "data:image/png;base64," + "A" * 100_000
    first, same, other = (one(ingested, ask(u)) for u in (big, big, big + "B"))
    part = json.loads(first["messages_json"])[0]["content"][1]
    assert set(part) == {"type", "sha", "bytes"} and part["bytes"] > 100_000
    assert first["messages_json"] == same["messages_json"] != other["messages_json"]
    assert len(first["messages_json"]) < 300
    assert [(m["kind"], m["count"]) for m in first["media"]] == [("image", 1)]
    assert first["media"][0]["hash"] != other["media"][0]["hash"]


def test_null_content_and_odd_characters(ingested: Ingested) -> None:
    """Null content, empty content, NUL escapes, U+2028 and emoji come through; a lone surrogate becomes U+FFFD."""
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
        {"role": "user", "content": ""},
        {"role": "user", "content": "\x00 \u2028 \U0001f642 e\u0301 \ufeff"},
    ]  # fmt: skip
    row = one(ingested, pair(request={"model": "m", "messages": messages}))
    assert json.loads(row["messages_json"]) == messages
    lone = json.dumps(
        pair(
            request_id="a\ud800",
            user="\udfff",
            request={"model": "m", "messages": [{"role": "user", "content": "x\ud83d"}]},
        )
    )
    row = one(ingested, lone.encode())
    assert (row["request_id"], row["user_id"]) == ("a\ufffd", "\ufffd")
    assert json.loads(row["messages_json"])[0]["content"] == "x\ufffd"


def test_several_prompts_in_one_completion(ingested: Ingested) -> None:
    """A text completion of n prompts is n requests of one attempt group; what is shared is not counted n times."""
    for prompts in (["a", "b", "c"], [[1, 2], [3], []]):
        for ids in ({"request_id": "q"}, {"request_id": None}):
            answer = {
                "id": "cmpl-1",
                "choices": [{"text": "x", "token_ids": [9]}],
                "usage": {"prompt_tokens": 9},
            }
            trace = ingested([pair(**ids, request={"model": "m", "prompt": prompts}, response=answer)])
            found = rows(trace)
            assert len(found) == 3 and len({r["request_id"] for r in found}) == 3
            assert {r["attempt_group"] for r in found} == {ids["request_id"] or "cmpl-1"}
            assert all(r["input_tokens"] is None and "one_of_several_prompts" in r["quality"] for r in found)
            if prompts[0] == [1, 2]:
                assert [t["input_ids"] for t in rows(trace, "tokens")] == prompts
            else:
                assert [c["prompt_text"] for c in rows(trace, "content")] == prompts


def test_token_ids_of_prompts_and_answers_are_kept(ingested: Ingested) -> None:
    """A prompt of ids is tokens, not text; an answer's token_ids are the output."""
    answer = {"choices": [{"text": "x", "token_ids": [7, 2**32 - 1]}]}
    row = one(ingested, pair(request={"model": "m", "prompt": [5, 0, 2**32 - 1]}, response=answer))
    assert row["input_ids"] == [5, 0, 2**32 - 1] and row["output_ids"] == [7, 2**32 - 1]
    assert row["content_level"] == "tokens" and row["operation"] == "text" and row["prompt_text"] is None


def test_embeddings_are_skipped_and_responses_are_read(ingested: Ingested) -> None:
    """An embedding is no generation; a Responses API body among chat bodies is read as what it is."""
    trace = ingested([
        pair(1),
        pair(2, request={"model": "text-embedding-3", "input": "x"}),
        pair(3, request={"model": "m", "input": ["x"], "encoding_format": "float"}),
        pair(4, request={"model": "m", "input": "hi", "instructions": "be brief"}),
    ])  # fmt: skip
    assert trace.manifest["skipped_by_reason"] == {"embedding": 2} and not reasons(trace)
    found = {r["request_id"]: r for r in rows(trace)}
    assert found["r4"]["operation"] == "responses"
    kept = {c["request_id"]: c["messages_json"] for c in rows(trace, "content")}
    assert json.loads(kept["r4"]) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_usage(ingested: Ingested) -> None:
    """Prompt tokens include the cached ones; zero is zero, absent null; more cached than prompted is dropped and flagged."""

    def counts(**usage: Any) -> dict[str, Any]:
        return one(ingested, pair(response={"choices": [{"message": {"content": "x"}}], "usage": usage}))

    row = counts(prompt_tokens=100, completion_tokens=7, prompt_tokens_details={"cached_tokens": 0})
    assert (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]) == (100, 7, 0)
    assert counts(prompt_tokens=100)["cached_input_tokens"] is None
    row = counts(prompt_tokens=10, prompt_tokens_details={"cached_tokens": 11})
    assert row["cached_input_tokens"] is None and "bad_cached_tokens" in row["quality"]
    row = counts(prompt_tokens=-1, completion_tokens=2**40)
    assert row["input_tokens"] is row["output_tokens"] is None
    assert {"bad_prompt_tokens", "bad_completion_tokens"} <= set(row["quality"])


# -- the others ----------------------------------------------------------------------------------------------


def test_litellm_facts(ingested: Ingested) -> None:
    """First token only of streams; call id joins attempts; trace_id is the session; response-cache hits are flagged."""
    log = {r["id"]: r for r in records("litellm")}
    found = {r["request_id"]: r for r in rows(ingested(SAMPLES / "litellm.jsonl"))}
    assert set(found) == set(log)
    for name, record in log.items():
        row = found[name]
        assert (row["first_token_ts"] is not None) == (record["stream"] is True)
        assert row["attempt_group"] == record["litellm_call_id"]
        assert row["session_id"] == record["trace_id"]
        assert row["served_from_response_cache"] == (record["cache_hit"] is True)
        assert row["arrival_quality"] == "attempt_start"
        if record["status"] == "failure":
            assert (
                row["status"] in ("error", "rejected") and row["input_tokens"] is row["output_tokens"] is None
            )
        else:
            assert row["input_tokens"] == record["prompt_tokens"]
    groups = [r["attempt_group"] for r in found.values()]
    assert len(set(groups)) < len(groups)  # a failed attempt and its fallback
    assert sum(r["served_from_response_cache"] for r in found.values()) == 1


def test_litellm_older_payload(ingested: Ingested) -> None:
    """Text times without a zone, `call_id`, redacted messages and other kinds of call are read for what they are."""
    base: dict[str, Any] = {
        "id": "a", "call_id": "c", "call_type": "acompletion", "status": "success", "stream": True, "model_parameters": {},
        "startTime": "2025-01-24 09:20:46.847371", "completionStartTime": "2025-01-24 09:20:46.900000",
        "endTime": "2025-01-24 09:20:46.951954", "messages": "redacted-by-litellm", "prompt_tokens": 5, "completion_tokens": 2,
    }  # fmt: skip
    row = one(ingested, base)
    assert (
        row["attempt_group"] == "c"
        and row["content_state"] == "redacted"
        and row["content_level"] == "lengths"
    )
    assert row["input_tokens"] == 5
    trace = ingested([base, {**base, "call_type": "aembedding"}, {**base, "call_type": "aimage_generation"}])
    assert trace.manifest["skipped_by_reason"] == {"embedding": 1, "not_a_generation": 1}
    cut = [{"role": "user", "content": "a... (litellm_truncated skipped 99 chars. ...) ...z"}]
    assert one(ingested, {**base, "messages": cut})["content_state"] == "truncated"


def test_azure_2023(ingested: Ingested) -> None:
    """100 ns stamps without a zone are cut to us and flagged; the CRLF file without a final newline loses no row."""
    trace = ingested(SAMPLES / "azure-llm.csv")
    found = rows(trace)
    assert not (SAMPLES / "azure-llm.csv").read_bytes().endswith(b"\n") and len(found) == 200
    assert found[0]["arrival_ts"] == datetime(2023, 11, 16, 18, 17, 3, 979960, UTC)
    assert found[0]["quality"] == ["tz_assumed"] and found[0]["source_row"] == 2
    assert found[0]["end_ts"] is None and found[0]["content_state"] == "absent"
    assert [r["source_row"] for r in found] == list(range(2, 202))


def test_azure_2024_and_2025(ingested: Ingested) -> None:
    """2024 stamps have a zone and a fraction only when it is not zero; 2025 adds images."""
    log = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n"
    first, second = rows(ingested(log, "a.csv"))
    assert first["arrival_ts"].microsecond == 9930 and second["arrival_offset_us"] == 990_070
    assert first["quality"] == []
    log = b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\r\n2024-10-01 00:00:01.234567,2,1210,33\r\n2024-10-01 00:00:02.000001,0,310,90"
    first, second = rows(ingested(log, "a.csv"))
    assert first["media"][0]["count"] == 2 and second["media"] is None and second["output_tokens"] == 90


def test_burstgpt(ingested: Ingested) -> None:
    """Seconds from midnight are relative; no response means a failed call; newer files have a session and an end."""
    found = rows(ingested(SAMPLES / "burstgpt.csv"))
    assert {r["status"] for r in found if r["output_tokens"] == 0} == {"error"}
    assert {r["status"] for r in found if r["output_tokens"]} == {"ok"}
    assert found[0]["arrival_offset_us"] == 0 and found[1]["arrival_offset_us"] == 40_000_000
    log = (
        b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        b"5.0,1f2e,4.2,ChatGPT,472,18,490,Conversation log\n45.5,,0.0,GPT-4,417,0,417,API log\n"
        b"0,,,GPT-4,1,1,2,API log\n"
    )
    first, second, third = rows(ingested(log, "b.csv"))
    assert first["app"] == "API log" and first["e2e_us"] is None
    assert second["session_id"] == "1f2e" and second["e2e_us"] == 4_200_000 and third["session_id"] is None
    assert third["arrival_offset_us"] == 45_500_000


def test_mooncake_blocks(ingested: Ingested) -> None:
    """The last, partial block has an id (ceil); another block size is told by the counts and by --block-size."""
    trace = ingested(SAMPLES / "mooncake.jsonl")
    for row, record, tokens in zip(rows(trace), records("mooncake"), rows(trace, "tokens"), strict=True):
        assert len(record["hash_ids"]) == -(-record["input_length"] // 512) and row["last_block_partial"]
        assert tokens["block_hashes"] == record["hash_ids"] and tokens["block_size"] == 512
        assert row["arrival_offset_us"] == record["timestamp"] * 1000
        assert row["hash_scope"] == "mooncake.jsonl" and row["arrival_resolution_us"] == 1000
    small = {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]}
    assert reasons(ingested([small])) == {"length_mismatch": 1}
    row = one(ingested, small, block_size=16)
    assert row["block_size"] == 16 and row["last_block_partial"]


def test_hashes_above_two_to_the_63(ingested: Ingested) -> None:
    """uint64 hashes survive to the last bit; one bit more is refused."""
    base = {"timestamp": 0, "input_length": 1024, "output_length": 1}
    row = one(ingested, {**base, "hash_ids": [18010294645152674689, 2**64 - 1]})
    assert row["block_hashes"] == [18010294645152674689, 2**64 - 1]
    for bad in ([2**64, 1], [-1, 1], [1.5, 2], [True, 1], ["1", "2"]):
        assert reasons(ingested([{**base, "hash_ids": bad}])) == {"wrong_type": 1}, bad


def test_weka_sessions(ingested: Ingested) -> None:
    """Only full blocks have hashes (floor); each session has its own clock and its own hashes; times are in s."""
    trace = ingested(SAMPLES / "weka.json")
    found = rows(trace)
    assert all(r["clock"] == "session" and r["hash_scope"] == r["session_id"] for r in found)
    assert not any(r["last_block_partial"] for r in found)
    for row, tokens in zip(found, rows(trace, "tokens"), strict=True):
        assert len(tokens["block_hashes"]) == row["input_tokens"] // 64
    first = records("weka")[0]
    mine = [r for r in found if r["session_id"] == first["id"]]
    assert [r["arrival_offset_us"] for r in mine] == [round(q["t"] * 1e6) for q in first["requests"]]
    assert [r["e2e_us"] for r in mine] == [round(q["api_time"] * 1e6) for q in first["requests"]]
    assert [r["turn_index"] for r in mine] == list(range(len(mine)))


def test_weka_sub_agents_start_when_they_are_called(ingested: Ingested) -> None:
    """A sub-agent's times count from the entry that holds it, so its requests lie between its parent's."""
    session = records("weka")[1]
    agents = [e for e in session["requests"] if e["type"] == "subagent"]
    found = [r for r in rows(ingested(SAMPLES / "weka.json")) if r["session_id"] == session["id"]]
    assert len(agents) == 2 and agents[0]["requests"][0]["t"] == 0.0
    for agent in agents:
        starts = {round((agent["t"] + q["t"]) * 1e6) for q in agent["requests"]}
        assert starts <= {r["arrival_offset_us"] for r in found if r["app"] == agent["agent_id"]}
    assert [r["arrival_offset_us"] for r in found] == sorted(r["arrival_offset_us"] for r in found)


def test_qwen_chat_tree(ingested: Ingested) -> None:
    """A turn's session is the root of its chat, over branches; blocks are of 16; ids of another file are others."""
    trace = ingested(SAMPLES / "qwen-bailian.jsonl")
    found = {r["request_id"]: r for r in rows(trace)}
    assert [found[c]["session_id"] for c in ("159", "255", "301", "302")] == ["159"] * 4
    assert found["310"]["session_id"] == "260" and found["303"]["parent_request_id"] is None
    assert found["301"]["parent_request_id"] == found["302"]["parent_request_id"] == "255"
    assert found["301"]["turn_index"] == 2 and found["159"]["block_size"] == 16
    assert found["255"]["arrival_offset_us"] == round((98.31 - 61.114) * 1e6)


def test_qwen_files_do_not_mix(tmp_path: Path) -> None:
    """Two files with the same chat ids are two logs: nothing is a duplicate, no session spans both."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes((SAMPLES / "qwen-bailian.jsonl").read_bytes())
    trace = ingest([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "t")
    found = rows(trace)
    assert len(found) == 14 and trace.manifest["rejects"] == 0
    assert len({r["session_id"] for r in found}) == 6
    assert all(r["session_id"].startswith("b.jsonl:") == (r["source_file"] == "b.jsonl") for r in found)


def test_sharegpt_turns(ingested: Ingested) -> None:
    """A model turn is a request whose prompt is all before it; empty chats and leading model turns are skipped."""
    trace = ingested(SAMPLES / "sharegpt.json")
    assert trace.manifest["skipped_by_reason"] == {"model_turn_without_prompt": 1, "empty_conversation": 1, "no_model_turn": 1}  # fmt: skip
    content = {
        (r["session_id"], r["turn_index"]): c
        for r, c in zip(rows(trace), rows(trace, "content"), strict=True)
    }
    prompt = json.loads(content["Xk2Lr9q_0", 1]["messages_json"])
    assert [m["role"] for m in prompt] == ["user", "assistant", "user"] and prompt[2][
        "content"
    ] == "And the fewest?"
    assert json.loads(content["Xk2Lr9q_0", 1]["output_json"])["content"] == "Mercury and Venus: none."
    assert json.loads(content["Xk2Lr9q_11", 0]["messages_json"])[0]["role"] == "assistant"
    assert json.loads(content["Zz81uni_0", 0]["output_json"])["content"] == "こんにちは"
    assert {r["clock"] for r in rows(trace)} == {"order_only"}


def test_batch_answers_find_their_requests(tmp_path: Path, ingested: Ingested) -> None:
    """Input and output files join on custom_id whatever their order; an answer without a request is a reject."""
    log = (SAMPLES / "openai-batch.jsonl").read_bytes().splitlines(keepends=True)
    asked = [line for line in log if b'"body":{"model"' in line and b'"url"' in line]
    answers = [line for line in log if line not in asked]
    (tmp_path / "b-output.jsonl").write_bytes(b"".join(answers))
    (tmp_path / "a-input.jsonl").write_bytes(b"".join(asked))
    for order in (["a-input.jsonl", "b-output.jsonl"], ["b-output.jsonl", "a-input.jsonl"]):
        trace = ingest([tmp_path / n for n in order], tmp_path / "t")
        found = {r["request_id"]: r for r in rows(trace)}
        assert len(found) == len(asked) - 1
        assert trace.manifest["skipped_by_reason"] == {
            "joined_to_its_request": len(answers) - 1,
            "embedding": 1,
        }
        assert [(r["reason"], r["source_file"]) for r in rows(trace, "rejects")] == [
            ("no_prompt", "b-output.jsonl")
        ]
        assert found["request-1"]["status"] == "ok" and found["request-1"]["output_tokens"] == 9
        assert (found["request-2"]["status"], found["request-2"]["http_status"]) == ("rejected", 400)
        assert (found["request-3"]["status"], found["request-3"]["error_type"]) == ("error", "batch_expired")
        assert found[f"request-{len(asked) - 1}"]["status"] == "unknown"
        assert {r["clock"] for r in found.values()} == {"none"}


def test_lmcache_order(ingested: Ingested) -> None:
    """us since 1970; rows are sorted by arrival, or left as they stand with --order file."""
    stamps = [r["timestamp"] for r in records("lmcache")]
    assert stamps != sorted(stamps)
    found = rows(ingested(SAMPLES / "lmcache.jsonl"))
    assert [round(r["arrival_ts"].timestamp() * 1e6) for r in found] == sorted(stamps)
    found = rows(ingested(SAMPLES / "lmcache.jsonl", order="file"))
    assert [r["arrival_offset_us"] for r in found] == [s - min(stamps) for s in stamps]
    assert [r["source_row"] for r in found] == list(range(1, len(stamps) + 1))


def test_empty_prompts_are_requests(ingested: Ingested) -> None:
    """A call with an empty prompt happened: it is a row, with no tokens, not a reject."""
    row = one(ingested, {"timestamp": 1760587801647311, "input": "", "output": "x", "session_id": "s"})
    assert row["prompt_text"] == ""
    assert one(ingested, pair(request={"model": "m", "prompt": []}))["input_ids"] == []
    assert one(ingested, pair(request={"model": "m", "messages": []}))["messages_json"] == "[]"


def test_block_hashes_of_64_random_bits_are_read(tmp_path: Path) -> None:
    """Mixed sizes, above and below 2^63, each to the last bit."""
    ids = [2**64 - 1, 1, 2**63, 18_010_294_645_152_674_689]
    row = {"timestamp": 0, "input_length": 2000, "output_length": 1, "hash_ids": ids}
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps(row) + "\n")
    trace = ingest([log], tmp_path / "t")
    assert trace.scan("tokens").collect()["block_hashes"].to_list() == [ids]


def test_anthropic_bodies_keep_system_and_tools(ingested: Ingested) -> None:
    """Among OpenAI bodies too: system first, tool calls and results as messages, marks for the cache dropped."""
    marked = {"cache_control": {"type": "ephemeral"}}
    request = {
        "model": "c",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be brief.", **marked}, {"type": "text", "text": "Be kind."}],
        "tools": [{"name": "f", "input_schema": {"z": 1, "a": 2}, **marked}],
        "messages": [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": "ü"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                    {"type": "text", "text": "go on", **marked},
                ],
            },
        ],
    }
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 5,
        "output_tokens": 2,
    }
    content = [{"type": "text", "text": "Done."}]
    answer = {"id": "m", "type": "message", "content": content, "stop_reason": "max_tokens", "usage": usage}
    trace = ingested([pair(1), pair(2, request=request, response=answer)])
    assert trace.manifest["requests"] == 2
    row = next(r for r in rows(trace) if r["request_id"] == "r2")
    assert (row["input_tokens"], row["cached_input_tokens"], row["cache_write_tokens"]) == (48, 40, 5)
    assert (row["output_tokens"], row["finish_reason"]) == (2, "length")
    assert "usage_excludes_cache_fixed" in row["quality"]
    kept = next(c for c in rows(trace, "content") if c["request_id"] == "r2")
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":"ü"}'}}
    assert json.loads(kept["messages_json"]) == [
        {
            "role": "system",
            "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        },
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": "go on"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": 2}}}
    assert kept["tools_json"] == json.dumps([tool], separators=(",", ":"))
    assert json.loads(kept["output_json"]) == {"role": "assistant", "content": "Done."}


def test_anthropic_body_is_told_by_its_answer(ingested: Ingested) -> None:
    """A body that could be OpenAI's is Anthropic's when its answer is, and its usage is summed."""
    body = {"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    answer = {"type": "message", "content": [], "usage": {"input_tokens": 3, "cache_read_input_tokens": 4}}
    trace = ingested([pair(1, request=body, response=answer)])
    assert trace.manifest["formats"] == {"anthropic": 1}
    assert rows(trace)[0]["input_tokens"] == 7


def test_bodies_as_json_in_strings(ingested: Ingested) -> None:
    """A body or an answer that a logger wrote as JSON text is read like the object, also when it did so twice."""
    plain = one(ingested, pair(1))
    for depth in (1, 2):
        log = pair(1)
        for key in ("request", "response"):
            for _ in range(depth):
                log[key] = json.dumps(log[key])
        row = one(ingested, log)
        for column in ("messages_json", "output_json", "input_tokens", "model_requested"):
            assert row[column] == plain[column], (depth, column)


def test_a_prompt_partly_on_the_server_counts_no_hits(tmp_path: Path) -> None:
    """previous_response_id: the row stays, marked; its text alone would give a wrong hit rate."""
    from traceprof.profiler import profile
    from traceprof.tokens import tokenize

    asked = {"model": "m", "input": "hello there " * 50, "instructions": "be brief"}
    log = tmp_path / "log.jsonl"
    later = {**asked, "previous_response_id": "resp_1"}
    log.write_text(
        "".join(json.dumps(pair(i, request=r)) + "\n" for i, r in enumerate([asked, later, asked]))
    )
    trace = ingest([log], tmp_path / "t")
    assert sorted(r["content_state"] for r in rows(trace)) == ["complete", "complete", "partial_history"]
    tokenize(trace)
    found = profile(trace, tmp_path / "p")
    assert found["prefix"]["requests_with_hit"] == 1
    assert any("on the server" in left["reason"] for left in found["left_out"])


def test_an_answer_that_is_json_text_is_text(ingested: Ingested) -> None:
    """A flat record's output stays what the model wrote, also where that is JSON or stands in quotes."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for said in ('{"city": "Bergen"}', '"Bergen"', "[1, 2]", "Bergen"):
        row = one(ingested, {**body, "output": said})
        assert json.loads(row["output_json"]) == {"role": "assistant", "content": said}


def test_a_responses_prompt_template_is_no_completion(ingested: Ingested) -> None:
    """The Responses API's `prompt` names a template on the server; it is not a text to complete."""
    request = {"model": "m", "input": "hi", "instructions": "be brief", "prompt": {"id": "pmpt_1"}}
    trace = ingested([pair(1, request=request)])
    assert rows(trace)[0]["operation"] == "responses" and not reasons(trace)
    assert rows(trace)[0]["content_state"] == "partial_history"


# -- streams -------------------------------------------------------------------------------------------------

CHAT_CHUNKS = [
    {"id": "c1", "object": "chat.completion.chunk", "model": "m-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "It "}}]},
    {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "shipped.", "tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}]}}]},
    {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}, "finish_reason": "tool_calls"}]},
    {"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}},
]  # fmt: skip
MESSAGE_EVENTS = [
    {"type": "message_start", "message": {"id": "m1", "model": "c", "role": "assistant", "usage": {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I look."}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]  # fmt: skip


def spoken(chunks: list[Any]) -> dict[str, Any]:
    """A stream in each way that loggers keep it."""
    events = "".join(f"event: x\ndata: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
    return {
        "events": events,
        "JSON lines": "\n".join(map(json.dumps, chunks)),
        "chunks": chunks,
        "chunks as text": json.dumps(chunks),
        "a list of events": events.split("\n\n"),
    }


@pytest.mark.parametrize("way", spoken([]))
def test_streams_are_put_together(way: str, ingested: Ingested) -> None:
    """An answer kept as a stream is the answer: text, tool calls, usage, reason; a cut one says so."""
    row = one(ingested, pair(1, response=spoken(CHAT_CHUNKS)[way]))
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert json.loads(row["output_json"]) == {
        "role": "assistant",
        "content": "It shipped.",
        "tool_calls": [call],
    }
    assert (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"]) == (12, 3, 8)
    assert (row["status"], row["finish_reason"], row["stream"], row["model_served"]) == (
        "ok", "tool_calls", True, "m-1",
    )  # fmt: skip
    cut = one(ingested, pair(1, status_code=None, response=spoken(CHAT_CHUNKS[:3])[way]))
    assert (cut["status"], cut["finish_reason"], cut["input_tokens"]) == ("incomplete", None, None)
    asked = {"model": "c", "max_tokens": 5, "system": "s", "messages": [{"role": "user", "content": "x"}]}
    row = one(ingested, pair(1, request=asked, response=spoken(MESSAGE_EVENTS)[way]))
    call["function"]["arguments"] = '{"a":1}'
    assert json.loads(row["output_json"]) == {"role": "assistant", "content": "I look.", "tool_calls": [call]}
    assert (row["input_tokens"], row["output_tokens"], row["finish_reason"]) == (10, 9, "tool_calls")
    whole = {"id": "r", "object": "response", "status": "completed", "model": "m", "usage": {"input_tokens": 4, "output_tokens": 2},
             "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}]}  # fmt: skip
    events = [
        {"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "Do"},
        {"type": "response.completed", "response": whole},
    ]
    row = one(
        ingested, pair(1, request={"model": "m", "input": "hi", "tools": []}, response=spoken(events)[way])
    )
    assert json.loads(row["output_json"])["content"] == "Done." and row["input_tokens"] == 4
