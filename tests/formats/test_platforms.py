"""Langfuse, Helicone, LangSmith, Weave and Braintrust: the facts that only their logs have."""

from __future__ import annotations

import csv
import doctest
import io
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import jsonl, reasons, rows, sample_records
from test_bad_input import changed

from traceprof.bodies import langchain, spans
from traceprof.formats import langfuse, weave
from traceprof.formats.base import Request, Skip
from traceprof.formats.held import Held
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hvor er pakken?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": 2}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def skipped(trace: Trace) -> dict[str, int]:
    found: dict[str, int] = trace.manifest["skipped_by_reason"]
    return found


def one(trace: Trace) -> dict[str, Any]:
    """The only request of a trace, all its columns."""
    (request,) = rows(trace)
    (content,) = rows(trace, "content") or [{}]
    return {**content, **request}


def said(trace: Trace) -> list[Any]:
    """The messages of each request."""
    return [json.loads(c["messages_json"]) for c in rows(trace, "content")]


# -- Langfuse ------------------------------------------------------------------------------------------------


def observation(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A small generation of the enriched blob export, with some of its columns changed."""
    return {
        "id": f"o{number}", "trace_id": "t1", "project_id": "p", "type": "GENERATION", "parent_observation_id": "",
        "start_time": f"2026-08-21 12:00:{number:02d}.000000", "end_time": f"2026-08-21 12:00:{number:02d}.500000",
        "level": "DEFAULT", "status_message": "", "input": json.dumps(SAID), "output": "Her.",
        "provided_model_name": "m", "model_parameters": "{}", "usage_details": {"input": 9, "output": 2, "total": 11},
        "completion_start_time": None, "session_id": "s1", "user_id": "u1", "updated_at": "2026-08-21 12:01:00.000000",
        **changes,
    }  # fmt: skip


USAGE: dict[str, tuple[dict[str, Any], tuple[Any, ...], list[str]]] = {
    # usage_details -> (input, cached, written, output, reasoning), flags
    "cached part apart": ({"input": 156, "input_cached_tokens": 1024, "output": 19, "total": 1199}, (1180, 1024, None, 19, None), ["usage_excludes_cache_fixed"]),
    "cached part inside": ({"input": 1180, "input_cached_tokens": 1024, "output": 19, "total": 1199}, (1180, 1024, None, 19, None), []),
    "both sides apart": ({"input": 12, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 88, "output": 4, "output_reasoning_tokens": 20, "total": 1024}, (1000, 900, 88, 24, 20), ["usage_excludes_cache_fixed"]),
    "reasoning apart, nothing cached": ({"input": 30, "output": 400, "input_cached_tokens": 0, "output_reasoning_tokens": 1000, "total": 1430}, (30, 0, None, 1400, 1000), []),
    "reasoning inside, cached apart": ({"input": 10, "input_cache_read": 90, "output": 50, "output_reasoning_tokens": 40, "total": 150}, (100, 90, None, 50, 40), ["usage_excludes_cache_fixed"]),
    "audio apart": ({"input": 10, "input_audio_tokens": 5, "output": 1, "total": 16}, (15, None, None, 1, None), ["usage_excludes_cache_fixed"]),
    "no total, more cached than input": ({"input": 10, "input_cache_read": 90, "output": 5}, (100, 90, None, 5, None), ["usage_excludes_cache_fixed"]),
    "no total, less cached than input": ({"input": 100, "input_cache_read": 90, "output": 5}, (100, 90, None, 5, None), ["usage_rule_assumed"]),
    "a total that fits no rule": ({"input": 100, "input_cache_read": 90, "output": 5, "total": 1000}, (100, 90, None, 5, None), ["usage_rule_assumed"]),
    "a total without the cached part": ({"input": 5, "cache_read_input_tokens": 1024, "output": 19, "total": 24}, (1029, 1024, None, 19, None), ["usage_excludes_cache_fixed"]),
    "zeros of a call that failed": ({"input": 0, "output": 0, "total": 0}, (None, None, None, None, None), []),
    "nothing but a total": ({"total": 11}, (None, None, None, None, None), []),
    "counts that are no counts": ({"input": "many", "output": -3, "total": 11}, (None, None, None, None, None), ["bad_input_tokens", "bad_output_tokens"]),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_langfuse_usage_is_told_by_its_sum(case: str, ingested: Ingested) -> None:
    """`input` and `output` may leave out their parts; the total tells, and the prompt is counted whole."""
    usage, expected, flags = USAGE[case]
    row = one(ingested([observation(usage_details=usage)]))
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    assert tuple(row[name] for name in names) == expected
    assert row["quality"] == flags


def lc(kind: str, **kwargs: Any) -> dict[str, Any]:
    """A LangChain constructor object."""
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": kwargs}


INPUTS: dict[str, Any] = {
    "JSON text of messages": json.dumps(SAID),
    "messages": SAID,
    "a body": {"messages": SAID},
    "LangChain's constructor objects, nested": {"messages": [[lc("SystemMessage", content="Be brief."), lc("HumanMessage", content="Hvor er pakken?")]]},
    "LangChain's dumps": [{"type": "system", "content": "Be brief."}, {"type": "human", "content": "Hvor er pakken?", "additional_kwargs": {}}],
    "LangChain's older dumps": [{"type": "system", "data": {"content": "Be brief."}}, {"type": "human", "data": {"content": "Hvor er pakken?"}}],
    "pairs of role and text": [["system", "Be brief."], ["human", "Hvor er pakken?"]],
    "JSON in JSON": json.dumps(json.dumps(SAID)),
    "Anthropic's system apart": {"system": "Be brief.", "messages": SAID[1:]},
    "parts of the GenAI conventions": [{"role": m["role"], "parts": [{"type": "text", "content": m["content"]}]} for m in SAID],
    "parts of the AI SDK": [{"id": "x", "role": m["role"], "parts": [{"type": "text", "text": m["content"]}]} for m in SAID],
    "Gemini's contents as messages": {"messages": [{"role": m["role"], "parts": [{"text": m["content"]}]} for m in SAID]},
}  # fmt: skip


@pytest.mark.parametrize("shape", INPUTS)
def test_prompts_of_every_shape_are_the_same_messages(shape: str, ingested: Ingested) -> None:
    """However an input is written, its messages are the same, so that prompts share what they share."""
    assert said(ingested([observation(input=INPUTS[shape])])) == [SAID]
    assert one(ingested([observation(input=INPUTS[shape])]))["content_state"] == "complete"


def test_langfuse_text_and_what_is_no_prompt(ingested: Ingested) -> None:
    """Plain text is the prompt; several are several requests; an input of the program's own shape is absent, not guessed."""
    trace = ingested(
        [
            observation(1, input="Once upon"),
            observation(2, input=["a", "b"]),
            observation(3, input={"question": "x"}),
            observation(4, input=""),
        ]
    )
    found = [(r["request_id"], r["operation"], c["prompt_text"], r["content_state"]) for r, c in zip(rows(trace), rows(trace, "content"), strict=True)]  # fmt: skip
    assert found == [
        ("o1", "text", "Once upon", "complete"), ("o2-0", "text", "a", "complete"), ("o2-1", "text", "b", "complete"),
        ("o3", "chat", None, "absent"), ("o4", "chat", None, "absent"),
    ]  # fmt: skip
    assert [r["input_tokens"] for r in rows(trace)] == [9, None, None, 9, 9]
    assert [r["quality"] for r in rows(trace)][3:] == [["unknown_prompt_shape"], []]


def test_langfuse_tools(ingested: Ingested) -> None:
    """Tools in the input come first; `tool_definitions` are taken where it has none, and the row says that their order is assumed."""
    own = json.dumps({"description": "d", "parameters": {"a": 1}})
    trace = ingested(
        [
            observation(1, input={"messages": SAID, "tools": [TOOL]}, tool_definitions={"g": own}),
            observation(2, tool_definitions={"g": own}),
            observation(3, tool_definitions={"g": "no JSON"}),
        ]
    )
    tools = [c["tools_json"] and json.loads(c["tools_json"]) for c in rows(trace, "content")]
    function = {"name": "g", "description": "d", "parameters": {"a": 1}}
    assert tools == [[TOOL], [{"type": "function", "function": function}], None]
    assert [r["quality"] for r in rows(trace)] == [[], ["tools_order_assumed"], ["bad_tool_definitions"]]


def test_langfuse_the_last_update_holds(tmp_path: Path, ingested: Ingested) -> None:
    """Of several exports of one observation the last updated_at is read, in whichever file; of equals the one that ended."""
    early = observation(
        1, end_time=None, output="", usage_details={}, updated_at="2026-08-21 12:00:01.100000"
    )
    late = observation(1, output="Her.", updated_at="2026-08-21 12:00:09.000000")
    for names in (("a", "b"), ("b", "a")):
        folder = tmp_path / "".join(names)
        folder.mkdir()
        for name, record in zip(names, (early, late), strict=True):
            (folder / f"{name}.jsonl").write_bytes(jsonl([record, observation(2 if name == "a" else 3)]))
        trace = ingest([folder], tmp_path / f"t-{'-'.join(names)}", Options())
        assert [r["request_id"] for r in rows(trace)] == ["o1", "o2", "o3"]
        assert rows(trace)[0]["end_ts"] is not None and skipped(trace) == {"older_update": 1}
        assert rows(trace)[0]["source_file"] == f"{names[1]}.jsonl"
    same = {"updated_at": ""}
    trace = ingested([observation(1, end_time="", **same), observation(1, **same), observation(1, input="x", **same)])  # fmt: skip
    assert said(trace) == [SAID] and rows(trace)[0]["source_row"] == 2
    assert skipped(trace) == {"older_update": 2} and not reasons(trace)


def test_langfuse_legacy_rows_find_their_trace_in_any_file(tmp_path: Path) -> None:
    """Session and user of legacy observations come from traces of the same import, before or after them; a trace without is one run."""
    old = {k: v for k, v in observation(1).items() if k not in ("session_id", "user_id")}
    log = tmp_path / "log"
    log.mkdir()
    known = {"id": "t1", "timestamp": "2026-08-21 12:00:00.000000", "tags": [], "bookmarked": False, "public": False,
             "session_id": "s9", "user_id": "u9", "project_id": "p"}  # fmt: skip
    for place in ("a-traces.jsonl", "z-traces.jsonl"):
        (log / "observations.jsonl").write_bytes(jsonl([old, {**old, "id": "o2", "trace_id": "t2"}]))
        (log / place).write_bytes(jsonl([known]))
        trace = ingest([log], tmp_path / f"t-{place}")
        assert [(r["session_id"], r["session_kind"], r["user_id"]) for r in rows(trace)] == [
            ("s9", "explicit", "u9"), ("t2", "trace", None),
        ]  # fmt: skip
        assert skipped(trace) == {"joined_to_its_request": 1}
        (log / place).unlink()


def test_langfuse_a_generation_that_sums_up_its_children_is_none(ingested: Ingested) -> None:
    """A generation whose usage is the sum of those directly below it repeats them; one that used more is a call of its own."""
    parent = observation(1, usage_details={"input": 30, "output": 5, "total": 35})
    below = [
        observation(
            i, parent_observation_id="o1", usage_details={"input": 5 * i, "output": i, "total": 6 * i}
        )
        for i in (2, 4)
    ]
    trace = ingested([parent, *below])
    assert [r["request_id"] for r in rows(trace)] == ["o1", "o2", "o4"]
    parent["usage_details"] = {"input": 30, "output": 6, "total": 36}
    trace = ingested([below[0], parent, below[1]])
    assert [r["request_id"] for r in rows(trace)] == ["o2", "o4"]
    assert skipped(trace) == {"sum_of_its_children": 1}
    # an older update of a child is not counted twice
    older = {**below[0], "updated_at": "2026-08-21 12:00:00.000000"}
    assert skipped(ingested([older, *below, parent])) == {"older_update": 1, "sum_of_its_children": 1}


def test_langfuse_outcomes(ingested: Ingested) -> None:
    """ERROR is an error, of which the kind is kept and never the words; without end and output a call is incomplete."""
    trace = ingested(
        [
            observation(
                1, level="ERROR", status_message="RateLimitError: Error code: 429 - key sk-very-secret"
            ),
            observation(2, level="ERROR", status_message="it broke", output=""),
            observation(3, end_time=None, output=""),
            observation(4, end_time=None),
            observation(5, level="WARNING", status_message="slow"),
        ]
    )
    assert [(r["status"], r["http_status"], r["error_type"]) for r in rows(trace)] == [
        ("rejected", 429, "RateLimitError"), ("error", None, "error"), ("incomplete", None, None), ("ok", None, None),
        ("ok", None, None),
    ]  # fmt: skip
    assert "very-secret" not in json.dumps([rows(trace), rows(trace, "content")], default=str)


def test_langfuse_masked_data_is_redacted(ingested: Ingested) -> None:
    """What an SDK masked takes no part in hit rates, as a whole input or as a message, and a masked answer is none."""
    mask = "<masked due to failed mask function>"
    trace = ingested(
        [
            observation(1, input=mask, output=mask),
            observation(2, input=[SAID[0], {"role": "user", "content": "***"}]),
            observation(3, input=[SAID[0], {"role": "user", "content": "what does *** mean?"}]),
        ]
    )
    assert [r["content_state"] for r in rows(trace)] == ["redacted", "redacted", "complete"]
    assert [r["content_level"] for r in rows(trace)] == ["lengths", "text", "text"]
    assert rows(trace, "content")[0]["output_json"] is None and rows(trace)[0]["quality"] == [
        "output_redacted"
    ]


def test_langfuse_with_field_groups_switched_off(ingested: Ingested) -> None:
    """The core columns alone are a log of arrivals."""
    core = ("id", "trace_id", "project_id", "type", "parent_observation_id", "start_time", "end_time")
    row = one(ingested([{k: observation()[k] for k in core}]))
    assert (row["status"], row["content_state"], row["input_tokens"]) == ("ok", "absent", None)
    assert row["arrival_ts"] == datetime(2026, 8, 21, 12, 0, 1, tzinfo=UTC)


def test_langfuse_csv_of_the_ui(ingested: Ingested) -> None:
    """The UI writes times in quotes of their own, and objects as JSON text."""
    record = {
        "id": "o1", "traceId": "t1", "type": "GENERATION", "startTime": '"2026-08-21T12:00:01.000Z"', "endTime": '"2026-08-21T12:00:02.500Z"',
        "level": "DEFAULT", "input": json.dumps(SAID), "output": json.dumps({"role": "assistant", "content": "Her."}),
        "usageDetails": json.dumps({"input": 3, "output": 2, "total": 5}), "completionStartTime": "", "parentObservationId": "",
        "modelParameters": '{"temperature":"0.5","max_tokens":"64","top_p":"x"}', "sessionId": "s",
    }  # fmt: skip
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(record))
    writer.writeheader()
    writer.writerow(record)
    row = one(ingested(sheet.getvalue().encode(), "ui.csv"))
    assert row["arrival_ts"] == datetime(2026, 8, 21, 12, 0, 1, tzinfo=UTC)
    assert (row["end_ts"] - row["arrival_ts"]).total_seconds() == 1.5
    assert (row["input_tokens"], row["max_output_tokens"], row["params"]["temperature"]) == (3, 64, 0.5)
    assert row["params"]["top_p"] is None and json.loads(row["messages_json"]) == SAID
    assert json.loads(row["output_json"]) == {"role": "assistant", "content": "Her."}


def test_langfuse_a_first_token_at_the_end_was_not_measured(ingested: Ingested) -> None:
    """Some SDKs write the end as completion_start_time of a call that did not stream."""
    end = "2026-08-21 12:00:01.500000"
    rows_ = rows(ingested([observation(1, completion_start_time=end), observation(2, completion_start_time="2026-08-21 12:00:02.100000")]))  # fmt: skip
    assert [r["first_token_ts"] and r["first_token_ts"].microsecond for r in rows_] == [None, 100_000]
    assert rows_[0]["quality"] == ["first_token_is_end"]


# -- what is held until the end ------------------------------------------------------------------------------


class Line(NamedTuple):
    file: str
    row: int
    raw: bytes
    value: Any


def test_held_records_come_back_as_they_were(tmp_path: Path) -> None:
    """Numbers that JSON has not, large ones, bytes and times survive; the order is the log's, the highest rank holds."""
    values = [{"a": 2**70, "b": float("inf")}, {"t": datetime(2026, 8, 21, tzinfo=UTC)}, {"raw": b"x\xff"}, {"deep": [[[{}]]]}]  # fmt: skip
    with Held() as held:
        for i, value in enumerate(values):
            assert held.keep(Line("f", i, b"raw%d" % i, value), f"n{i}") is None
        outdone = held.keep(Line("g", 9, b"new", {"v": 2}), "n1", rank=5)
        assert outdone is not None and outdone[0][:2] == ("f", 1) and outdone[1] == Skip("older_update")
        late = held.keep(Line("g", 10, b"old", {"v": 1}), "n1", rank=4)
        assert late is not None and late[0].row == 10
        found = list(held)
    assert [(r.file, r.row, r.raw) for r in found] == [("f", 0, b"raw0"), ("f", 2, b"raw2"), ("f", 3, b"raw3"), ("g", 9, b"new")]  # fmt: skip
    assert found[0].value["a"] == 2**70 and found[1].value == {"raw": "x\ufffd"}
    assert found[2].value == values[3] and found[3].value == {"v": 2}


def test_held_text_lies_on_disk() -> None:
    """Memory does not grow with the text of a Langfuse log, whose rows are all held until its end."""
    text = "word " * 20_000
    count = 300  # 30 MB of text

    def records() -> Any:
        for i in range(count):
            value = observation(1, id=f"o{i}", input=f"{i} {text}")
            yield Line("f", i + 1, json.dumps(value).encode(), value)

    tracemalloc.start()
    read = sum(isinstance(result, Request) for _, result in langfuse.read_all(records()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == count and peak < 4_000_000


# -- Helicone ------------------------------------------------------------------------------------------------


def exported(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A small row of Helicone's export, with some of its fields changed."""
    return {
        "response_id": f"r{number}", "response_created_at": f"2026-08-21T12:00:{number:02d}.800Z", "response_status": 200,
        "request_id": f"q{number}", "request_created_at": f"2026-08-21T12:00:{number:02d}.000Z", "delay_ms": 800,
        "request_body": {"model": "m", "messages": SAID}, "request_user_id": "u", "request_properties": {},
        "response_body": {"choices": [{"message": {"role": "assistant", "content": "Her."}, "finish_reason": "stop"}]},
        "provider": "OPENAI", "model": "m", "time_to_first_token": None, "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11,
        **changes,
    }  # fmt: skip


def test_helicone_statuses(ingested: Ingested) -> None:
    """HTTP codes as everywhere; Helicone's own are negative: timeout, pending, cancelled, threat."""
    codes = [200, "200", 404, 503, -1, -2, -3, -4, -99, None]
    log = [exported(i, response_status=code, response_body=None) for i, code in enumerate(codes)]
    assert [(r["status"], r["http_status"], r["error_type"]) for r in rows(ingested(log))] == [
        ("ok", 200, None), ("ok", 200, None), ("rejected", 404, None), ("error", 503, None), ("error", None, "timeout"),
        ("incomplete", None, None), ("cancelled", None, None), ("rejected", None, "threat"), ("unknown", None, None), ("unknown", None, None),
    ]  # fmt: skip


def test_helicone_cache_hits(ingested: Ingested) -> None:
    """A reference to another request says that Helicone answered out of its cache; a cache that was only switched on does not."""
    zero, other = "00000000-0000-0000-0000-000000000000", "5b0e5a1c-3c6f-4a7e-9a51-0f1f4c5d6e70"
    log = [exported(1, cache_reference_id=zero, cache_enabled=True), exported(2, cache_reference_id=other, cache_enabled=True), exported(3)]  # fmt: skip
    assert [r["served_from_response_cache"] for r in rows(ingested(log))] == [False, True, None]


def test_helicone_csv_with_quotes_doubled_once_too_often(ingested: Ingested) -> None:
    """The export script escapes the quotes of a body twice; the prompt is the same."""
    body = {"model": "m", "messages": [{"role": "user", "content": 'Say "hi", \\ and ""'}], "stop": [""]}
    plain = json.dumps(body)
    names = ("response_id", "response_created_at", "response_status", "request_created_at", "request_body", "request_properties")  # fmt: skip
    lines = [",".join(names)]
    for i, text in enumerate((plain, plain.replace('"', '""'))):
        props = json.dumps({"helicone-session-id": "s1"}) if not i else '{""Helicone-Session-Id"": ""s1""}'
        cells = (f"r{i}", "2026-08-21T12:00:01Z", "200", "2026-08-21T12:00:00Z", text, props)
        lines.append(",".join('"' + c.replace('"', '""') + '"' for c in cells))
    trace = ingested("\n".join(lines).encode(), "x.csv")
    assert said(trace) == [body["messages"], body["messages"]]
    assert [r["session_id"] for r in rows(trace)] == ["s1", "s1"]
    assert [r["params"]["stop_count"] for r in rows(trace)] == [1, 1]


def test_helicone_counts_without_bodies(ingested: Ingested) -> None:
    """Columns are the whole prompt only by assumption; Anthropic's, and those smaller than their cached part, leave it out."""
    bare = {"request_body": None, "response_body": None, "signed_body_url": "https://example.invalid/x"}
    log = [
        exported(1, **bare, prompt_tokens=100, prompt_cache_read_tokens=0),
        exported(2, **bare, prompt_tokens=100, prompt_cache_read_tokens=90),
        exported(3, **bare, prompt_tokens=10, prompt_cache_read_tokens=90),
        exported(4, **bare, prompt_tokens=100, prompt_cache_read_tokens=90, provider="ANTHROPIC"),
        exported(
            5, **bare, prompt_tokens=100, prompt_cache_read_tokens=90, completion_tokens=2, total_tokens=192
        ),
        exported(6, **bare, prompt_tokens=100),
        exported(7, **bare, prompt_tokens=0, completion_tokens=0, response_status=500),
    ]
    log[1]["total_tokens"] = 102  # Helicone's own sum
    trace = ingested(log)
    assert [(r["input_tokens"], r["cached_input_tokens"]) for r in rows(trace)] == [
        (100, 0), (100, 90), (100, 90), (190, 90), (190, 90), (100, None), (None, None),
    ]  # fmt: skip
    fixed, assumed = ["usage_excludes_cache_fixed"], ["usage_rule_assumed"]
    assert [r["quality"] for r in rows(trace)] == [[], assumed, fixed, fixed, fixed, assumed, []]
    assert {r["content_state"] for r in rows(trace)} == {"absent"}
    assert {r["content_level"] for r in rows(trace)} == {"lengths"}


def test_helicone_a_body_counts_before_the_columns(ingested: Ingested) -> None:
    """Where the answer has its own usage, the columns are not needed."""
    answer = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Her."}], "stop_reason": "end_turn",
              "usage": {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 2}}  # fmt: skip
    row = one(ingested([exported(response_body=answer, prompt_tokens=4)]))
    assert (row["input_tokens"], row["cached_input_tokens"], row["finish_reason"]) == (10, 6, "stop")
    assert json.loads(row["output_json"])["content"] == "Her."


def test_helicone_rows_that_are_no_generation(ingested: Ingested) -> None:
    """Embeddings, images and moderations are told by their path also without a body; tools and vector stores by theirs."""
    paths = ("embeddings", "images/generations", "moderations", "audio/speech")
    log = [exported(i, request_body=None, request_path=f"https://x.invalid/v1/{p}") for i, p in enumerate(paths)]  # fmt: skip
    log += [exported(7, request_body={"_type": "vector_db"}), exported(8, request_body={"model": "text-embedding-3", "input": "x"})]  # fmt: skip
    trace = ingested(log)
    assert skipped(trace) == {"embedding": 2, "image": 1, "moderation": 1, "audio": 1, "not_a_generation": 1}


# -- LangSmith -----------------------------------------------------------------------------------------------


def run(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A small llm run, with some of its fields changed."""
    return {
        "id": f"run{number}", "run_type": "llm", "trace_id": "t1", "dotted_order": f"x{number}", "session_id": "the-project",
        "start_time": f"2026-08-21T12:00:{number:02d}.000000", "end_time": f"2026-08-21T12:00:{number:02d}.900000", "status": "success",
        "inputs": {"messages": SAID}, "outputs": {"choices": [{"message": {"role": "assistant", "content": "Her."}}]},
        "extra": {"invocation_params": {"model": "m"}, "metadata": {}}, "error": None, **changes,
    }  # fmt: skip


def test_langsmith_the_project_is_no_session(ingested: Ingested) -> None:
    """session_id at the top is the project; the program's own stands in the metadata, under one of its names."""
    log = [run(i + 1, extra={"metadata": {key: "s1"}}) for i, key in enumerate(("session_id", "thread_id", "conversation_id"))]  # fmt: skip
    trace = ingested([*log, run(9, trace_id="t9")])
    assert [(r["session_id"], r["session_kind"]) for r in rows(trace)] == [*[("s1", "explicit")] * 3, ("t9", "trace")]  # fmt: skip
    assert "the-project" not in json.dumps(rows(trace), default=str)


def test_langsmith_first_token(ingested: Ingested) -> None:
    """The run's own field, else the first new_token of its events; a call that did not stream has none."""
    at = "2026-08-21T12:00:{:02d}.250000"
    events = [{"name": "start", "time": at.format(2)}, {"name": "new_token", "time": at.format(2)}, {"name": "new_token", "time": "2026-08-21T12:00:02.5"}]  # fmt: skip
    log = [run(1, first_token_time=at.format(1)), run(2, events=json.dumps(events)), run(3, events=[])]
    assert [r["first_token_ts"] and r["first_token_ts"].microsecond for r in rows(ingested(log))] == [250_000, 250_000, None]  # fmt: skip


def test_calls_around_one_another_are_one(ingested: Ingested) -> None:
    """A wrapper of type llm around a client's own llm run repeats it: only the innermost is a request, in whatever order they come."""
    run = sample_records("langsmith")[1]
    runs = [{**run, "id": "in", "parent_run_id": "out", "run_type": "llm"}, {**run, "id": "out", "parent_run_id": None, "run_type": "llm"}]  # fmt: skip
    span = next(r for r in sample_records("braintrust") if r["span_attributes"]["type"] == "llm")
    wrapped = [
        {**span, "span_id": "in", "span_parents": ["out"]},
        {**span, "span_id": "out", "span_parents": []},
    ]
    for log in (runs, runs[::-1], wrapped, wrapped[::-1]):
        trace = ingested(log)
        assert [r["request_id"] for r in rows(trace)] == ["in"]
        assert skipped(trace) == {"repeats_its_child": 1}


def test_langsmith_a_run_exported_before_and_after_its_end(ingested: Ingested) -> None:
    """The pending one gives way to the ended one; of two that ended the first counts."""
    run = {**sample_records("langsmith")[1], "id": "a", "run_type": "llm"}
    pending = {**run, "end_time": None, "outputs": None, "status": "pending"}
    trace = ingested([pending, run, {**run, "outputs": None}])
    assert (one(trace)["status"], one(trace)["output_json"] is None) == ("ok", False)
    assert skipped(trace) == {"older_update": 2}


def test_langsmith_counts(ingested: Ingested) -> None:
    """The answer's usage_metadata, a wrapped client's, or the run's own; 0 of a call that failed is unknown."""
    meta = {"input_tokens": 30, "output_tokens": 4, "input_token_details": {"cache_read": 20, "cache_creation": 5}, "output_token_details": {"reasoning": 3}}  # fmt: skip
    made = lc("AIMessage", content="Her.", usage_metadata=meta)
    log = [
        run(1, outputs={"generations": [[{"text": "Her.", "message": made}]]}, prompt_tokens=1, completion_tokens=1),
        run(2, outputs={"choices": [{"message": {"role": "assistant", "content": "Her."}}], "usage_metadata": meta}),
        run(3, prompt_tokens=30, completion_tokens=4, prompt_token_details={"cache_read": 20}),
        run(4, outputs=None, error="ValueError('x')", status="error", prompt_tokens=0, completion_tokens=0),
        run(5, outputs={"generations": [[{"text": "Her."}]], "llm_output": {"token_usage": {"prompt_tokens": 30, "completion_tokens": 4}}}),
    ]  # fmt: skip
    trace = ingested(log)
    assert [(r["input_tokens"], r["cached_input_tokens"], r["output_tokens"]) for r in rows(trace)] == [
        (30, 20, 4), (30, 20, 4), (30, 20, 4), (None, None, None), (30, None, 4),
    ]  # fmt: skip
    assert (rows(trace)[0]["cache_write_tokens"], rows(trace)[0]["reasoning_tokens"]) == (5, 3)
    answers = [c["output_json"] and json.loads(c["output_json"]) for c in rows(trace, "content")]
    assert answers == [
        *[{"role": "assistant", "content": "Her."}] * 3,
        None,
        {"role": "assistant", "content": "Her."},
    ]
    assert (rows(trace)[3]["status"], rows(trace)[3]["error_type"]) == ("error", "ValueError")


def test_langsmith_prompts_and_other_runs(ingested: Ingested) -> None:
    """Text prompts are one request each; chains, tools and retrievers are none; a large input that lies elsewhere is absent."""
    log = [
        run(1, inputs={"prompts": ["Once upon"]}),
        run(2, inputs={"prompts": ["a", "b"]}),
        run(3, run_type="chain"),
        run(4, run_type="embedding"),
        run(5, inputs={}, inputs_s3_urls={"ROOT": {"presigned_url": "https://example.invalid"}}),
        run(6, run_type=None),
    ]
    trace = ingested(log)
    assert [r["request_id"] for r in rows(trace)] == ["run1", "run2-0", "run2-1", "run5"]
    assert [c["prompt_text"] for c in rows(trace, "content")] == ["Once upon", "a", "b", None]
    assert skipped(trace) == {"not_a_generation": 1, "embedding": 1} and reasons(trace) == {
        "missing_field": 1
    }
    assert rows(trace)[3]["content_state"] == "absent" and rows(trace)[3]["quality"] == ["prompt_offloaded"]


def test_langsmith_parameters(ingested: Ingested) -> None:
    """invocation_params come before what LangSmith wrote of them, and the call's own arguments before both."""
    extra = {"invocation_params": {"model": "m2", "temperature": 0.5, "tools": [TOOL], "stop": ["x"], "seed": 7}, "metadata": {"ls_model_name": "m1", "ls_temperature": 0.1, "ls_max_tokens": 64, "ls_provider": "openai", "user_id": "u"}}  # fmt: skip
    row = one(ingested([run(1, extra=extra, inputs={"messages": SAID, "model": "m3"})]))
    assert (row["model_requested"], row["provider"], row["user_id"], row["max_output_tokens"]) == ("m3", "openai", "u", 64)  # fmt: skip
    assert (row["params"]["temperature"], row["params"]["seed"], row["params"]["stop_count"]) == (0.5, 7, 1)
    assert json.loads(row["tools_json"]) == [TOOL]


def test_langchain_messages() -> None:
    """Calls keep the arguments as the model wrote them where they are there; results, thoughts and names as LangChain sends them."""
    both = lc("AIMessageChunk", content="", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1", "type": "tool_call"}], additional_kwargs={"tool_calls": [CALL]})  # fmt: skip
    assert langchain.message(both) == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    parsed = lc("AIMessage", content="I look.", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1"}])
    written = {**CALL, "function": {"name": "f", "arguments": '{"a":1}'}}
    assert langchain.message(parsed) == {"role": "assistant", "content": "I look.", "tool_calls": [written]}
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look.", "index": 0}, {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]  # fmt: skip
    claude = lc("AIMessage", content=blocks, tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1"}])
    assert langchain.message(claude) == {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [written]}  # fmt: skip
    result = lc("ToolMessage", content="42", tool_call_id="c1", name="f", type="tool")
    assert langchain.message(result) == {"role": "tool", "content": "42", "tool_call_id": "c1"}
    assert langchain.message(lc("HumanMessage", content="hi", name="Kari")) == {"role": "user", "content": "hi", "name": "Kari"}  # fmt: skip
    assert langchain.message(lc("ChatMessage", content="hi", role="critic"))["role"] == "critic"
    own = {"role": "user", "content": "hi", "extra": 1}
    assert langchain.message(own) is own


# -- Weave ---------------------------------------------------------------------------------------------------


def call(number: int = 1, op: str = "openai.chat.completions.create", **changes: Any) -> dict[str, Any]:
    """A small Weave call, with some of its fields changed."""
    return {
        "id": f"call{number}", "op_name": f"weave:///team/proj/op/{op}:digest", "trace_id": "t1", "parent_id": None, "thread_id": None,
        "started_at": f"2026-08-21T12:00:{number:02d}.000000Z", "ended_at": f"2026-08-21T12:00:{number:02d}.900000Z", "exception": None,
        "inputs": {"self": "weave:///x", "model": "m", "messages": SAID}, "summary": {}, "attributes": {}, "project_id": "team/proj",
        "output": {"model": "m-1", "choices": [{"message": {"role": "assistant", "content": "Her."}, "finish_reason": "stop"}]}, **changes,
    }  # fmt: skip


OPS = {
    "openai.chat.completions.create": None, "openai.beta.chat.completions.parse": None, "anthropic.Messages.create": None,
    "anthropic.AsyncMessages.stream": None, "groq.chat.completions.create": None, "mistralai.chat.complete_async": None,
    "litellm.acompletion": None, "langchain.Llm.ChatOpenAI": None, "openai.embeddings.create": "embedding", "openai.images.generate": "image",
    "langchain.Chain.RunnableSequence": "not_a_generation", "my_completion_step": "not_a_generation", "Evaluation.evaluate": "not_a_generation",
}  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_weave_reads_the_methods_of_model_clients(op: str, ingested: Ingested) -> None:
    """The op's name tells a call of a model from a function of the program, whose usage sums up its children's."""
    log = [call(1, op), call(2)]
    trace = ingested(log)
    assert skipped(trace) == ({OPS[op]: 1} if OPS[op] else {})
    assert len(rows(trace)) == (1 if OPS[op] else 2)


def test_weave_a_wrapper_of_a_clients_call_repeats_it(ingested: Ingested) -> None:
    """LiteLLM and LangChain call a client below them, which is logged too, before or after; without one they are the call."""
    above, alone = call(1, "litellm.completion"), call(2, "langchain.Llm.ChatOllama", trace_id="t2")
    below = call(3, parent_id="call1")
    for log in ([above, below, alone], [below, alone, above]):
        trace = ingested(log)
        assert [r["request_id"] for r in rows(trace)] == ["call2", "call3"]
        assert skipped(trace) == {"repeats_its_child": 1}


def test_weave_references_are_not_followed(ingested: Ingested) -> None:
    """A value that is only referred to is absent; a prompt without its tools is not whole."""
    ref = "weave:///team/proj/object/x:v1"
    trace = ingested(
        [
            call(1, inputs={"model": "m", "messages": ref}, output=ref, summary={"usage": {"m-1": {"requests": 1, "input_tokens": 7, "output_tokens": 2}}}),
            call(2, inputs={"model": "m", "messages": SAID, "tools": ref}),
        ]
    )  # fmt: skip
    assert [(r["content_state"], r["quality"]) for r in rows(trace)] == [
        ("absent", ["prompt_is_reference", "output_is_reference"]), ("truncated", ["prompt_part_is_reference"]),
    ]  # fmt: skip
    assert (rows(trace)[0]["input_tokens"], rows(trace)[0]["model_served"]) == (7, "m-1")


def test_weave_usage_of_the_summary(ingested: Ingested) -> None:
    """The answer's usage first; the summary's by the maker's rule; of several models none, since it is not one call's."""
    bare = {"choices": [{"message": {"role": "assistant", "content": "Her."}}]}
    one_model = {
        "usage": {"c": {"requests": 1, "input_tokens": 4, "output_tokens": 2, "cache_read_input_tokens": 6}}
    }
    two = {"usage": {"a": {"prompt_tokens": 1}, "b": {"prompt_tokens": 2}}}
    trace = ingested(
        [
            call(1, output={**bare, "usage": {"prompt_tokens": 9, "completion_tokens": 2}}, summary=two),
            call(2, "anthropic.Messages.create", output=bare, summary=one_model),
            call(3, output=bare, summary=two),
            call(4, output=bare, summary={"usage": {"m": {"prompt_tokens": 5, "completion_tokens": 1}}}),
        ]
    )
    assert [(r["input_tokens"], r["cached_input_tokens"]) for r in rows(trace)] == [(9, None), (10, 6), (None, None), (5, None)]  # fmt: skip


def test_weave_outcomes_and_sessions(ingested: Ingested) -> None:
    """The kind of an exception is kept, not its traceback; a call that did not end is incomplete; a thread is a session."""
    trouble = 'Traceback (most recent call last):\n  File "/home/kari/x.py", line 1\nasyncio.exceptions.CancelledError: '
    trace = ingested([call(1, exception=trouble, output=None), call(2, ended_at=None, output=None), call(3, thread_id="s1"), call(4, deleted_at="2026-08-22T00:00:00Z")])  # fmt: skip
    assert [(r["status"], r["error_type"]) for r in rows(trace)] == [("cancelled", "CancelledError"), ("incomplete", None), ("ok", None)]  # fmt: skip
    assert [(r["session_id"], r["session_kind"]) for r in rows(trace)] == [("t1", "trace"), ("t1", "trace"), ("s1", "explicit")]  # fmt: skip
    assert skipped(trace) == {"deleted": 1} and "kari" not in json.dumps([rows(trace), rows(trace, "content")], default=str)  # fmt: skip


# -- Braintrust ----------------------------------------------------------------------------------------------


def span(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A small Braintrust span, with some of its fields changed."""
    metrics = changes.pop("metrics", {})
    return {
        "id": f"row{number}", "_xact_id": "1000", "created": "2026-08-21T12:00:00Z", "project_id": "p", "span_id": f"sp{number}",
        "root_span_id": "root", "span_parents": ["root"], "span_attributes": {"name": "Chat Completion", "type": "llm"}, "input": SAID,
        "output": [{"index": 0, "message": {"role": "assistant", "content": "Her."}, "finish_reason": "stop"}], "error": None,
        "metadata": {"model": "m", "session_id": "s1"}, "metrics": {"start": 1787313600.0 + number, "end": 1787313601.0 + number, **metrics},
        **changes,
    }  # fmt: skip


def test_braintrust_the_largest_transaction_holds(tmp_path: Path) -> None:
    """_xact_id grows with every update, and is compared as a number."""
    (tmp_path / "a.jsonl").write_bytes(jsonl([span(1, _xact_id="999", output=None), span(2, _xact_id="5")]))
    (tmp_path / "b.jsonl").write_bytes(jsonl([span(1, _xact_id="1000"), span(2, _xact_id="4", output=None)]))
    trace = ingest([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "t")
    assert [(r["request_id"], r["source_file"]) for r in rows(trace)] == [("sp1", "b.jsonl"), ("sp2", "a.jsonl")]  # fmt: skip
    assert all(c["output_json"] for c in rows(trace, "content")) and skipped(trace) == {"older_update": 2}


def test_braintrust_first_token_of_a_stream_only(ingested: Ingested) -> None:
    """The SDK writes time_to_first_token for every call; of one that did not stream it is the whole duration."""
    log = [
        span(1, metrics={"time_to_first_token": 0.25}),
        span(2, metrics={"time_to_first_token": 0.999}),
        span(3, metrics={"time_to_first_token": 0.999}, metadata={"stream": True}),
        span(4, metrics={"time_to_first_token": 0.25}, metadata={"stream": False}),
        span(5, metrics={"time_to_first_token": "soon"}),
    ]
    trace = ingested(log)
    assert [r["ttft_us"] for r in rows(trace)] == [250_000, None, 999_000, None, None]
    assert rows(trace)[4]["quality"] == ["bad_time_to_first_token"]


def test_braintrust_counts(ingested: Ingested) -> None:
    """prompt_tokens are the whole prompt, unless the sum shows that they leave out the cached part."""
    log = [
        span(1, metrics={"prompt_tokens": 30, "prompt_cached_tokens": 20, "completion_tokens": 4, "tokens": 34}),
        span(2, metrics={"prompt_tokens": 10, "prompt_cached_tokens": 20, "prompt_cache_creation_tokens": 5, "completion_tokens": 4, "tokens": 39}),
        span(3, metrics={"prompt_tokens": 30, "completion_tokens": 9, "completion_reasoning_tokens": 5, "tokens": 39}),
        span(4),
    ]  # fmt: skip
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    assert [tuple(r[n] for n in names) for r in rows(ingested(log))] == [
        (30, 20, None, 4, None), (35, 20, 5, 4, None), (30, None, None, 9, 5), (None,) * 5,
    ]  # fmt: skip


def test_braintrust_spans_of_parquet_and_other_types(ingested: Ingested) -> None:
    """Objects may be JSON text; tasks, tools and scores are no calls, nor is an embedding that says llm."""
    plain = span(1)
    nested = ("span_parents", "span_attributes", "input", "output", "metadata", "metrics")
    log = [
        {k: json.dumps(v) if k in nested else v for k, v in plain.items()},
        *(
            span(i, span_attributes={"type": kind})
            for i, kind in enumerate(("task", "tool", "score", None), 2)
        ),
        span(8, span_attributes={"type": "llm", "name": "Embedding"}, input="x"),
    ]
    trace = ingested(log)
    row = one(trace)
    assert json.loads(row["messages_json"]) == SAID and row["parent_request_id"] == "root" and row["session_id"] == "s1"  # fmt: skip
    assert skipped(trace) == {"not_a_generation": 4, "embedding": 1}
    assert row["arrival_ts"] == datetime(2026, 8, 21, 12, 0, 1, tzinfo=UTC)


def test_braintrust_a_span_without_its_times(ingested: Ingested) -> None:
    """`created` is when the row was written: near the arrival, and said to be the log's."""
    bare = span(1)
    bare["metrics"] = {"prompt_tokens": 3}
    row = one(ingested([bare]))
    assert (row["arrival_quality"], row["status"]) == ("log_time", "ok")
    assert row["arrival_ts"] == datetime(2026, 8, 21, 12, 0, tzinfo=UTC)


# -- answers -------------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[Any, Any]] = {
    "text": ("Her.", {"role": "assistant", "content": "Her."}),
    "text in quotes": ('"Her."', {"role": "assistant", "content": '"Her."'}),
    "text that is JSON": ('{"city": "Bergen"}', {"role": "assistant", "content": '{"city": "Bergen"}'}),
    "a message": ({"role": "assistant", "content": "Her.", "refusal": None}, {"role": "assistant", "content": "Her."}),
    "a message as JSON text": ('{"role": "assistant", "content": "Her."}', {"role": "assistant", "content": "Her."}),
    "blocks of Anthropic": ({"role": "assistant", "content": [{"type": "text", "text": "Her."}]}, {"role": "assistant", "content": "Her."}),
    "a message inside": ({"message": {"role": "assistant", "content": "Her."}}, {"role": "assistant", "content": "Her."}),
    "choices": ([{"index": 0, "message": {"role": "assistant", "content": "Her."}}], {"role": "assistant", "content": "Her."}),
    "items": ([{"type": "reasoning"}, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Her."}]}], {"role": "assistant", "content": "Her."}),
    "LangChain": ({"type": "ai", "content": "Her.", "tool_calls": []}, {"role": "assistant", "content": "Her."}),
    "chunks": ([{"choices": [{"index": 0, "delta": {"content": "He"}}]}, {"choices": [{"index": 0, "delta": {"content": "r."}, "finish_reason": "stop"}]}], {"role": "assistant", "content": "Her."}),
    "an object of the program": ({"city": "Bergen"}, None),
    "an error": ({"error": {"type": "x"}}, None),
    "nothing": (None, None),
}  # fmt: skip


@pytest.mark.parametrize("shape", ANSWERS)
def test_answers_of_every_shape(shape: str) -> None:
    """An answer is one assistant message; an object that is no answer's shape is not taken for what the model wrote."""
    given, expected = ANSWERS[shape]
    out = Request()
    spans.read_answer(out, given)
    assert (out.output_json and json.loads(out.output_json)) == expected
    assert out.quality == (["unknown_output_shape"] if shape == "an object of the program" else [])


def test_examples_in_docstrings() -> None:
    """What the docstrings show is so."""
    for module in (spans, weave):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed, module


# -- whatever stands where -----------------------------------------------------------------------------------

RICH = {
    "langfuse": ("id", [1, 6]), "langfuse.ui": ("id", [1]), "helicone": ("request_id", [0, 8]), "langsmith": ("id", [1, 4]),
    "weave": ("id", [1, 5]), "braintrust": ("span_id", [1, 8]),
}  # fmt: skip


@pytest.mark.parametrize("name", RICH)
def test_wrong_values_anywhere_in_a_rich_record(name: str, ingested: Ingested) -> None:
    """Each record has an id of its own, so that none is taken for an older update: read, rejected or skipped, never a crash."""
    key, places = RICH[name]
    log = sample_records(name)
    bad = [other for place in places for other in changed(log[place], 5)]
    numbered = [{**r, key: f"x{i}"} if isinstance(r.get(key), str) else r for i, r in enumerate(bad)]
    trace = ingested(
        [json.dumps(r).encode() for r in numbered], format=name.partition(".")[0], duplicates="keep"
    )
    assert len(bad) > 500 and "unreadable" not in reasons(trace), rows(trace, "rejects")[:3]
    assert len(rows(trace)) > len(bad) // 2
    for row in rows(trace):
        assert row["input_tokens"] is None or (row["cached_input_tokens"] or 0) <= row["input_tokens"]
