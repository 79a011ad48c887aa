"""Facts of bodies, batches, LiteLLM's table, Docker Model Runner, and of sessions of coding agents."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES, jsonl, pair, reasons, rows, sample_records

from traceprof import bodies
from traceprof.formats import base, claude_code, litellm_spendlogs
from traceprof.formats.openai_batch import joined
from traceprof.ingest import ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]


def one(ingested: Ingested, record: Any, **options: Any) -> dict[str, Any]:
    """The single row of a log of one record, with its content and tokens."""
    trace = ingested([record], **options)
    assert trace.manifest["requests"] == 1, trace.manifest
    row = rows(trace)[0]
    for kind in ("content", "tokens"):
        row.update((rows(trace, kind) or [{}])[0])
    return row


def named(trace: Trace) -> dict[str, dict[str, Any]]:
    """All rows by request_id, with their content."""
    sides = zip(rows(trace), rows(trace, "content"), strict=True)
    return {row["request_id"]: {**row, **content} for row, content in sides}


def at(text: str) -> datetime:
    """A time of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- marks of a logger ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "mark"),
    [
        ("so it went...[truncated]", "truncated"),
        ("so it went… [truncated 812 chars]\n", "truncated"),
        ("so it went <TRUNCATED>", "truncated"),
        ("so it went (truncated)", "truncated"),
        ("[REDACTED]", "redacted"),
        ("<redacted>", "redacted"),
        ("redacted-by-litellm", "redacted"),
        ("[EMAIL REDACTED]", "redacted"),
        ("*** REDACTED ***", "redacted"),
        ("***", "redacted"),
        ("What does [REDACTED] mean?", None),
        ("My mail is [EMAIL_REDACTED].", None),
        ("The list [truncated] goes on", None),
        ("[filter]", None),
        ("", None),
    ],
)
def test_marks_of_cut_and_redacted_texts(said: str, mark: str | None) -> None:
    """A mark counts at the end of a text (cut) or as the whole of it (redacted), not where somebody speaks of one."""
    assert base.cut_mark(said) == mark


def test_cut_and_redacted_prompts_are_told_in_every_dialect(ingested: Ingested) -> None:
    """content_state tells of marks in messages, parts, prompts and other dialects' bodies; a tool's own cut is none."""
    cut, hidden = "a long story...[truncated]", "[REDACTED]"
    user = [{"role": "user", "content": cut}]
    parts = [{"role": "user", "content": [{"type": "text", "text": cut}]}]
    tool = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "t", "content": cut}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "m", "messages": user}, "truncated"),
        ({"model": "m", "messages": parts}, "truncated"),
        ({"model": "m", "messages": tool}, "complete"),
        ({"model": "m", "messages": [{"role": "user", "content": hidden}]}, "redacted"),
        ({"model": "m", "prompt": cut}, "truncated"),
        ({"model": "m", "max_tokens": 5, "system": hidden, "messages": [{"role": "user", "content": "x"}]}, "redacted"),
        ({"model": "m", "instructions": "i", "input": [{"role": "user", "content": hidden}]}, "redacted"),
        ({"model": "m", "prompt": "x (litellm_truncated skipped 9 chars) y"}, "truncated"),
    ]  # fmt: skip
    for request, state in cases:
        assert one(ingested, pair(1, request=request))["content_state"] == state, request


def test_a_cut_or_redacted_answer_is_dropped(ingested: Ingested) -> None:
    """Half an answer is none; the row says why, and keeps its counts."""
    for said, flag in (("Once upon...[truncated]", "output_truncated"), ("[REDACTED]", "output_redacted")):
        answer = {"choices": [{"message": {"content": said}}], "usage": {"completion_tokens": 7}}
        row = one(ingested, pair(1, response=answer))
        assert row["output_json"] is None and flag in row["quality"] and row["output_tokens"] == 7


def test_a_body_that_breaks_off_is_a_request_without_its_prompt(ingested: Ingested) -> None:
    """JSON text that a logger cut: times, counts and the answer stay, the prompt is truncated, not rejected."""
    whole = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 99}]})
    answer = {"choices": [{"message": {"content": "y"}}], "usage": {"prompt_tokens": 40}}
    for request in (whole[:80], {"headers": {}, "body": whole[:80]}):
        row = one(ingested, pair(1, request=request, response=answer))
        assert (row["content_level"], row["content_state"], row["operation"]) == (
            "lengths",
            "truncated",
            "chat",
        )
        assert (row["input_tokens"], row["messages_json"], row["e2e_us"]) == (40, None, 800_000)
    row = one(ingested, pair(1, response=json.dumps(answer)[:50]))
    assert row["output_json"] is None and row["content_state"] == "complete"


# -- text completions and pairs ------------------------------------------------------------------------------


def test_each_prompt_of_a_completion_gets_its_choices(ingested: Ingested) -> None:
    """Choice i belongs to prompt i // n, whatever order choices come in; echo and suffix change nothing."""
    choices = [
        {"index": i, "text": f"t{i}", "finish_reason": "stop" if i < 2 else "length"} for i in (3, 0, 2, 1)
    ]
    body = {"model": "m", "prompt": ["a", "b"], "n": 2, "echo": True, "suffix": "z"}
    trace = ingested([pair(1, request=body, response={"choices": choices, "usage": {"prompt_tokens": 9}})])
    first, second = (named(trace)[f"r1-{i}"] for i in (0, 1))
    assert (first["prompt_text"], second["prompt_text"]) == ("a", "b")
    assert [m["content"] for m in json.loads(first["output_json"])] == ["t0", "t1"]
    assert [m["content"] for m in json.loads(second["output_json"])] == ["t3", "t2"]
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "length")
    assert first["input_tokens"] is None and first["tokens_source"] is None


@pytest.mark.parametrize("prompt", [["alone"], [[5, 6]]])
def test_a_single_prompt_in_a_list_is_one_request(prompt: list[Any], ingested: Ingested) -> None:
    """Its usage, answer and id are its own."""
    answer = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
    row = one(ingested, pair(1, request={"model": "m", "prompt": prompt}, response=answer))
    assert (row["request_id"], row["input_tokens"], row["quality"]) == (
        "r1",
        2,
        ["end_is_arrival_plus_duration"],
    )
    found = row["prompt_text"], row.get("input_ids")
    assert found == (("alone", None) if prompt == ["alone"] else (None, [5, 6]))


def test_ids_that_the_engine_returns_are_the_prompt(ingested: Ingested) -> None:
    """vLLM's return_token_ids: of a chat at the top of the answer, of a completion in its choice, of a stream in a chunk."""
    chat = {"choices": [{"message": {"content": "x"}, "token_ids": [7]}], "prompt_token_ids": [1, 2]}
    row = one(ingested, pair(1, response=chat))
    assert (row["input_ids"], row["output_ids"], row["content_level"]) == ([1, 2], [7], "tokens")
    text = {"choices": [{"text": "x", "prompt_token_ids": [3]}]}
    assert one(ingested, pair(1, request={"model": "m", "prompt": "p"}, response=text))["input_ids"] == [3]
    chunks = [
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}], "prompt_token_ids": [4]},
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]  # fmt: skip
    assert one(ingested, pair(1, response=chunks))["input_ids"] == [4]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"model": "gpt-image-1", "prompt": "a harbour", "size": "1024x1024"}, "image"),
        ({"model": "flux", "prompt": "a harbour", "size": "512x512", "n": 1}, "image"),
        ({"model": "any", "prompt": "a harbour", "response_format": "b64_json"}, "image"),
        ({"model": "sora-2", "prompt": "a harbour", "seconds": "4"}, "video"),
    ],
)
def test_requests_for_pictures_are_no_completions(
    body: dict[str, Any], kind: str, ingested: Ingested
) -> None:
    """Model, prompt and a size in pixels ask for an image, bare, wrapped, and as an HTTP dump."""
    assert bodies.of_request(body) is None
    for record in (pair(2, request=body), pair(2, request={"headers": {}, "body": json.dumps(body)})):
        trace = ingested([pair(1), record])
        assert trace.manifest["skipped_by_reason"] == {kind: 1} and trace.manifest["requests"] == 1


def test_a_size_that_is_no_picture_s_is_a_completion(ingested: Ingested) -> None:
    """A flat log may note the size of its answer."""
    row = one(ingested, {"model": "m", "prompt": "p", "response": "x", "size": 123})
    assert row["operation"] == "text" and json.loads(row["output_json"])["content"] == "x"


@pytest.mark.parametrize("said", ["plain text", '{"city": "Bergen"}', "{ not JSON }", "[1]"])
def test_answers_as_plain_text(said: str, ingested: Ingested) -> None:
    """A text under response or output is what the model said, in a wrapper as in a flat record."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for record in (
        pair(1, response=said),
        pair(1, response=None, output=said),
        {**chat, "response": said},
        {"model": "m", "prompt": "x", "output": said},
    ):
        row = one(ingested, record)
        assert json.loads(row["output_json"]) == {"role": "assistant", "content": said}
        assert row["status"] == "ok"


def test_what_an_error_says_is_no_answer(ingested: Ingested) -> None:
    """Plain text under a 5xx is the proxy's, and an error's JSON in a text is an error."""
    row = one(ingested, pair(1, status_code=502, response="Bad Gateway"))
    assert (row["output_json"], row["status"]) == (None, "error")
    row = one(ingested, pair(1, status_code=None, response='{"error": {"type": "overloaded"}}'))
    assert (row["output_json"], row["status"], row["error_type"]) == (None, "error", "overloaded")


def test_an_answer_that_is_a_message(ingested: Ingested) -> None:
    """A message alone, or alone in a list, is the answer."""
    message = {"role": "assistant", "content": "hi"}
    for output in (message, [message]):
        assert json.loads(one(ingested, pair(1, response=output))["output_json"]) == message


def test_attempts_of_one_id_stay_apart(ingested: Ingested) -> None:
    """Numbered attempts under one id are requests of one group; a count of retries changes no id."""
    log = [pair(1, attempt=n, timestamp=f"2026-08-21T12:00:0{n}Z") for n in (1, 2, 3)]
    found = named(ingested(log))
    assert sorted(found) == ["r1", "r1-retry1", "r1-retry2"]
    assert {r["attempt_group"] for r in found.values()} == {"r1"}
    assert [found[k]["attempt_no"] for k in sorted(found)] == [0, 1, 2]
    assert all("attempts_counted_from_one" in r["quality"] for r in found.values())
    row = one(ingested, pair(1, retry=1))
    assert (row["request_id"], row["attempt_no"]) == ("r1-retry1", 1)
    row = one(ingested, pair(1, retry_count="2"))
    assert (row["request_id"], row["attempt_no"], row["attempt_group"]) == ("r1", 2, None)
    row = one(ingested, pair(1, attempt=2, idempotency_key="k"))
    assert (row["request_id"], row["attempt_no"], row["attempt_group"]) == ("r1", 1, "k")
    row = one(ingested, pair(1, retry=True, attempt="second", retries=10**9))
    assert (row["request_id"], row["attempt_no"]) == ("r1", None)


def test_http_dumps_give_ids_and_codes_and_no_other_header(ingested: Ingested) -> None:
    """The request's id before the answer's; retries; the answer's code; nothing private is kept."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    record = {
        "request": {"headers": {"Authorization": "Bearer t", "X-Request-ID": ["q-1"], "x-stainless-retry-count": "1"}, "body": body},
        "response": {"status": 429, "headers": {"x-request-id": "q-2"}, "body": {"error": {"type": "rate"}}},
        "client_ip": "192.0.2.7", "user_email": "a@example.org", "node": "n1",
    }  # fmt: skip
    row = one(ingested, record)
    assert (row["request_id"], row["attempt_no"], row["http_status"]) == ("q-1", 1, 429)
    assert (row["status"], row["extra_json"]) == ("rejected", '{"node":"n1"}')


def test_created_stands_for_the_arrival_only_when_nothing_else_does(ingested: Ingested) -> None:
    """The server's second, derived and coarse; never over a time that the logger noted."""
    answer = {"created": 1787313600, "choices": [{"message": {"content": "x"}}]}
    bare = {"request": pair()["request"], "response": answer}
    row = one(ingested, bare)
    assert row["arrival_ts"] == at("2026-08-21T12:00:00") and row["arrival_resolution_us"] == 1_000_000
    assert (row["arrival_quality"], row["quality"]) == ("derived", ["arrival_is_created"])
    assert one(ingested, pair(1, response=answer))["arrival_ts"] == at("2026-08-21T12:00:01.250")
    late = one(ingested, {**bare, "end_time": "2026-08-21T11:00:00Z"})
    assert late["arrival_ts"] is None
    made = {"object": "response", "status": "completed", "output": [], "created_at": 1787313600, "completed_at": 1787313603}  # fmt: skip
    row = one(ingested, {"request": {"model": "m", "input": "x", "tools": []}, "response": made})
    assert row["end_ts"] - row["arrival_ts"] == timedelta(seconds=3)


def test_counts_beside_the_bodies(ingested: Ingested) -> None:
    """They hold where the answer has none, by their provider's rule; zeros are unknown, the answer's own come first."""
    flat = {"model": "m", "prompt": "p", "response": "x"}
    row = one(ingested, {**flat, "prompt_tokens": 4, "completion_tokens": "2"})
    assert (row["input_tokens"], row["output_tokens"], row["tokens_source"]) == (4, 2, "usage")
    row = one(
        ingested, {**flat, "usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}}
    )
    assert (row["input_tokens"], row["cached_input_tokens"]) == (8, 5)
    row = one(ingested, {**flat, "prompt_tokens": 0, "completion_tokens": 0})
    assert (row["input_tokens"], row["output_tokens"]) == (None, None)
    own = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    assert one(ingested, pair(1, response=own, prompt_tokens=99))["input_tokens"] == 7


# -- stored completions and batches --------------------------------------------------------------------------


def test_answers_alone_have_lengths_and_no_prompt(ingested: Ingested) -> None:
    """Each completion is a request; with messages beside it, it has its prompt; a pair is still a pair."""
    completion = {
        "id": "c1", "object": "chat.completion", "created": 1787313600, "model": "m",
        "choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }  # fmt: skip
    trace = ingested([completion, {"object": "list", "data": [{**completion, "id": "c2"}, 7]}])
    assert trace.manifest["formats"] == {"openai-stored": 2} and reasons(trace) == {"wrong_type": 1}
    for row in rows(trace):
        assert (row["content_level"], row["content_state"], row["input_tokens"]) == ("lengths", "absent", 3)
        assert row["model_requested"] is None and row["model_served"] == "m"
    said = {
        **completion,
        "request_id": "q",
        "input_user": None,
        "messages": [{"id": "i", "role": "user", "content": "hi"}],
    }
    row = one(ingested, said)
    assert row["source_format"] == "openai-stored" and json.loads(row["messages_json"]) == [{"role": "user", "content": "hi"}]  # fmt: skip
    flat = {**completion, "messages": [{"role": "user", "content": "hi"}]}
    assert one(ingested, flat)["source_format"] == "openai"
    beside = {**completion, "kwargs": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}
    row = one(ingested, beside)
    assert (row["source_format"], row["content_level"], row["input_tokens"]) == ("openai", "text", 3)


def asked(number: int, text: str) -> dict[str, Any]:
    """A line of a batch's input."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def answered(number: int, answer: str, text: str) -> dict[str, Any]:
    """A line of a batch's output."""
    body = {"id": f"c-{answer}", "choices": [{"message": {"content": text}}]}
    return {
        "id": answer,
        "custom_id": f"row-{number}",
        "response": {"status_code": 200, "body": body},
        "error": None,
    }


def test_batches_with_the_same_ids_are_not_mixed(tmp_path: Path) -> None:
    """An answer goes to the input file that shares most ids with its own; nothing is a duplicate of the other batch."""
    files = {
        "a-in": [asked(i, f"a{i}") for i in (1, 2, 3)],
        "b-in": [asked(i, f"b{i}") for i in (2, 3, 4, 5)],
        "b-out": [answered(i, f"B{i}", f"of b{i}") for i in (5, 4, 3)],
        "a-out": [answered(i, f"A{i}", f"of a{i}") for i in (1, 3, 2)],
        "b-err": [{"id": "B2", "custom_id": "row-2", "response": None, "error": {"code": "batch_expired"}}],
    }
    paths = []
    for name, log in files.items():
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_bytes(jsonl(log))
    trace = ingest(paths, tmp_path / "t")
    assert not reasons(trace) and trace.manifest["requests"] == 7
    told = {json.loads(r["messages_json"])[0]["content"]: r for r in named(trace).values()}
    for text, row in told.items():
        answer = row["output_json"] and json.loads(row["output_json"])["content"]
        assert answer == (None if text == "b2" else f"of {text}")
        assert ("joined_by_order" in row["quality"]) == (text[1] in "23")
    assert (told["b2"]["status"], told["b2"]["error_type"]) == ("error", "batch_expired")
    assert sorted(named(trace)) == ["row-1", "row-2", "row-2@B2", "row-3", "row-3@B3", "row-4", "row-5"]


def test_a_batch_run_twice_is_paired_in_order() -> None:
    """Two files of the same ids, two of answers: the first goes with the first, and says so."""
    ids = ["1", "2"]
    found = joined([(f, i) for f in "ab" for i in ids], [(f, i) for f in "cd" for i in reversed(ids)])
    assert [f.at for f in found] == [1, 0, 3, 2] and all(f.by_order for f in found)
    assert [f.at for f in joined([("a", "1")], [("b", "1"), ("b", "1"), ("b", "9")])] == [0, -2, -1]


def test_the_same_id_twice_in_one_input_is_a_duplicate(ingested: Ingested) -> None:
    """Without an answer of its own, nothing tells it from a line that was written twice."""
    trace = ingested([asked(1, "x"), asked(1, "x"), answered(1, "A", "y")])
    assert trace.manifest["requests"] == 1 and reasons(trace) == {"duplicate_request_id": 1}


def test_anthropic_results_find_their_requests(tmp_path: Path, ingested: Ingested) -> None:
    """Also when each request stands on a line of its own; what failed says how."""
    body = {"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    lines = [{"custom_id": i, "params": body} for i in ("1", "2", "3")]
    message = {
        "id": "m1",
        "type": "message",
        "content": [{"type": "text", "text": "y"}],
        "usage": {"input_tokens": 2, "output_tokens": 1},
    }
    results = [
        {"custom_id": "3", "result": {"type": "canceled"}},
        {"custom_id": "2", "result": {"type": "errored", "error": {"type": "error", "error": {"type": "api_error"}}}},
        {"custom_id": "1", "result": {"type": "succeeded", "message": message}},
    ]  # fmt: skip
    (tmp_path / "batch.json").write_text(json.dumps({"requests": lines}, indent=1))
    (tmp_path / "results.jsonl").write_bytes(jsonl(results))
    whole = ingest([tmp_path / "results.jsonl", tmp_path / "batch.json"], tmp_path / "t")
    for trace in (whole, ingested([*results, *lines])):
        found = named(trace)
        assert not reasons(trace) and sorted(found) == ["1", "2", "3"]
        assert [(found[i]["status"], found[i]["error_type"]) for i in "123"] == [("ok", None), ("error", "api_error"), ("cancelled", None)]  # fmt: skip
        assert (found["1"]["provider_request_id"], found["1"]["input_tokens"]) == ("m1", 2)


# -- LiteLLM -------------------------------------------------------------------------------------------------


def spend(**changes: Any) -> dict[str, Any]:
    """The second real row of SpendLogs, the fallback, with some of its columns changed."""
    return {**sample_records("litellm-spendlogs")[1], **changes}


def received(stamp: str) -> str:
    body = json.loads(spend()["proxy_server_request"])
    return json.dumps({**body, "metadata": {**body["metadata"], "litellm_received_at": stamp}})


def test_spend_logs_arrive_when_the_client_came(ingested: Ingested) -> None:
    """litellm_received_at over startTime, in whatever zone the server wrote it; an impossible one is not believed."""
    start, came = at("2026-11-22T19:45:01.188100"), at("2026-11-22T19:44:59.266046")
    for shift in (0, 2, -5, 5.75):
        local = (came + timedelta(hours=shift)).strftime("%Y-%m-%d %H:%M:%S.%f")
        row = one(ingested, spend(proxy_server_request=received(local)))
        assert row["arrival_ts"] == came and row["arrival_quality"] == "measured"
        assert ("zone_of_received_at_derived" in row["quality"]) == bool(shift)
    for stamp in ("2026-11-22 19:47:00", "yesterday", None):
        row = one(ingested, spend(proxy_server_request=received(stamp)))  # type: ignore[arg-type]
        assert row["arrival_ts"] == start and row["arrival_quality"] == "attempt_start"


def test_spend_logs_name_what_was_asked_for(ingested: Ingested) -> None:
    """After a fallback: the body's model, not the group that answered; a trace id made up by LiteLLM is no session."""
    row = one(ingested, spend())
    assert (row["model_requested"], row["model_served"], row["session_kind"]) == (
        "down-first",
        "hosted_vllm/tiny",
        "explicit",
    )
    assert one(ingested, spend(session_id="made-up"))["session_kind"] == "trace"


@pytest.mark.parametrize(
    ("told", "known"), [("True", True), ("true", True), (True, True), ("False", False), ("None", False), ("", None), (None, None)]
)  # fmt: skip
def test_spend_logs_spell_cache_hits(told: Any, known: bool | None, ingested: Ingested) -> None:
    """Text or not: a hit, a miss, a cache that is off (a miss, too), or nothing told."""
    assert one(ingested, spend(cache_hit=told))["served_from_response_cache"] is known


def test_spend_logs_keep_nothing_private(ingested: Ingested) -> None:
    """No raw key, no address, no header, no e-mail of the metadata in any column."""
    body = json.loads(spend()["proxy_server_request"])
    body["metadata"]["headers"] = {"authorization": "Bearer secret-1"}
    row = spend(
        api_key="sk-secret-2", requester_ip_address="192.0.2.7", proxy_server_request=json.dumps(body),
        metadata=json.dumps({"user_api_key_user_email": "a@example.org", "status": "success"}),
    )  # fmt: skip
    kept = json.dumps(one(ingested, row), default=str)
    for private in ("secret-1", "secret-2", "192.0.2.7", "example.org"):
        assert private not in kept


def test_spend_logs_twice_encoded_and_cut(ingested: Ingested) -> None:
    """JSON in a string in a string is read; a string that was cut leaves a truncated prompt; a first token needs a stream."""
    plain = one(ingested, spend())
    twice = one(
        ingested,
        spend(**{k: json.dumps(spend()[k]) for k in ("metadata", "proxy_server_request", "response")}),
    )
    for column in ("messages_json", "output_json", "input_tokens", "cached_input_tokens"):
        assert twice[column] == plain[column] is not None
    cut = one(ingested, spend(proxy_server_request=spend()["proxy_server_request"][:60]))
    assert (cut["content_state"], cut["content_level"], cut["input_tokens"]) == ("truncated", "lengths", 13)
    assert plain["first_token_ts"] is None and plain["stream"] is None
    assert one(ingested, sample_records("litellm-spendlogs")[0])["first_token_ts"] is not None
    assert not litellm_spendlogs.detect(sample_records("litellm")[0])


def test_litellm_payloads_of_webhooks_and_older_versions(ingested: Ingested) -> None:
    """Arrays, one a line or one a file, and the older name of the call's id; a time without a zone is UTC, and says so."""
    old = {k: v for k, v in sample_records("litellm")[0].items() if k != "litellm_call_id"}
    old.update(call_id="call-7", startTime="2025-01-24 09:20:46.847371", endTime="2025-01-24 09:20:46.851954", completionStartTime=None)  # fmt: skip
    new, third = sample_records("litellm")[1:3]
    for log in (jsonl([[old, new], [third]]), json.dumps([old, new, third], indent=1).encode()):
        trace = ingested(log, "log.json")
        assert set(trace.manifest["formats"]) == {"litellm"} and trace.manifest["requests"] == 3
        row = next(r for r in rows(trace) if r["request_id"] == old["id"])
        assert row["attempt_group"] == "call-7" and "tz_assumed" in row["quality"]
        assert row["arrival_ts"] == at("2025-01-24T09:20:46.847371")
    hidden = {**new, "messages": [{"role": "user", "content": "redacted-by-litellm"}]}
    assert one(ingested, hidden)["content_state"] == "redacted"


def test_litellm_payloads_of_other_dialects(ingested: Ingested) -> None:
    """Items of the Responses API and blocks of Anthropic become messages; the answer is read as what it is."""
    base = {**sample_records("litellm")[0], "model_parameters": {"instructions": "Be brief."}, "metadata": {}}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    answer = {"object": "response", "status": "completed", "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]}  # fmt: skip
    row = one(ingested, {**base, "call_type": "aresponses", "messages": items, "response": answer})
    said = json.loads(row["messages_json"])
    assert [m["role"] for m in said] == ["system", "user", "assistant", "tool"]
    assert said[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert json.loads(row["output_json"]) == {"role": "assistant", "content": "a"}
    text = one(ingested, {**base, "call_type": "aresponses", "messages": "q", "response": answer})
    assert json.loads(text["messages_json"]) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]  # fmt: skip
    assert text["prompt_text"] is None


def test_litellm_zeros_are_unknown(ingested: Ingested) -> None:
    """A row that counts neither prompt nor answer does not know, also where the call went well."""
    for log in (
        {**sample_records("litellm")[0], "metadata": {}, "response": {}},
        spend(response="{}", metadata="{}"),
    ):
        row = one(ingested, {**log, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
        assert (row["status"], row["input_tokens"], row["output_tokens"], row["tokens_source"]) == ("ok", None, None, None)  # fmt: skip


# -- Docker Model Runner -------------------------------------------------------------------------------------


def test_docker_ids_tell_the_moment_only_when_they_agree(ingested: Ingested) -> None:
    """ns at the end of an id within 2 s of the second of arrival; else the second, and its resolution."""

    def record(name: str, **changes: Any) -> dict[str, Any]:
        request = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]})
        one = {"id": name, "model": "m", "request": request, "timestamp": 1787313600, "status_code": 200}
        return {"model": "m", "config": {}, "count": 1, "records": [{**one, **changes}]}

    for name, us in (("m_1787313600123456789", 123_456), ("m_1787313690123456789", 0), ("m_17", 0)):
        row = one(ingested, record(name))
        assert row["arrival_ts"] == at("2026-08-21T12:00:00") + timedelta(microseconds=us)
        assert row["arrival_resolution_us"] == (None if us else 1_000_000)
    row = one(ingested, record("m_1", status_code=408, error='{"error": "unknown error"}'))
    assert (row["status"], row["http_status"]) == ("incomplete", 408)
    trace = ingested([record("m_1", timestamp="soon"), record("m_2")])
    assert reasons(trace) == {"bad_time": 1} and trace.manifest["requests"] == 1


# -- sessions of coding agents -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "provider"), [("claude-code", "claude"), ("codex", "codex")])
def test_sessions_agree_with_tracelab(name: str, provider: str, ingested: Ingested) -> None:
    """The same real session, read by us and by TraceLab's own extraction: counts and times of every round are the same."""
    ours, theirs = rows(ingested(SAMPLES / f"{name}.jsonl")), rows(ingested(SAMPLES / "tracelab.jsonl"))
    theirs = [r for r in theirs if r["provider"] == provider]
    same = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
            "arrival_ts", "end_ts", "turn_index")  # fmt: skip
    assert len(ours) == len(theirs) == (10 if provider == "claude" else 9)
    assert [[r[k] for k in same] for r in ours] == [[r[k] for k in same] for r in theirs]


def talk(trace: Trace) -> dict[str, list[Any]]:
    """What was said before each request, as role and text or tools, by request_id."""
    out = {}
    for name, row in named(trace).items():
        said = json.loads(row["messages_json"])
        out[name] = [
            (m["role"], m["content"] if m["content"] else [c["id"] for c in m.get("tool_calls", ())])
            for m in said
        ]
    return out


def test_claude_code_prompts_follow_the_conversation(ingested: Ingested) -> None:
    """One answer of several rows with all results after it; a branch leaves out what was said on the other; compaction begins anew."""
    trace = ingested(SAMPLES / "claude-code.cases.jsonl")
    found = talk(trace)
    assert found["req_01"] == [("user", "テストを直して")]
    before = found["req_02"]
    assert before[:3] == [*found["req_01"], ("assistant", ["toolu_1", "toolu_2"]), ("tool", "1 failed")]
    assert before[3][0] == "tool" and before[3][1][0] == {"type": "text", "text": "hour = 6"}
    assert found["req_04"] == [*before, ("assistant", "I ask an agent."), ("tool", "6, 7, 8")]
    assert found["req_05"] == [*found["req_01"], ("user", "Leave the test. What is ferry.py?")]
    assert [text for _, text in found["req_06"]] == [
        "This session is being continued: the ferry leaves at seven.",
        "When?",
    ]
    rows_ = named(trace)
    assert rows_["req_01"]["output_tokens"] == 112 and rows_["req_01"]["input_tokens"] == 3 + 812 + 18233
    assert {r["content_state"] for r in rows_.values()} == {"partial_history"}
    assert rows_["req_03"]["session_id"] == rows_["req_01"]["session_id"] + "/ag1"
    assert rows_["req_03"]["trace_id"] == rows_["req_01"]["session_id"] == rows_["req_01"]["trace_id"]
    assert (
        "parent_not_found" in rows_["req_08"]["quality"]
        and "parent_not_found" not in rows_["req_07"]["quality"]
    )


def test_claude_code_attempts(ingested: Ingested) -> None:
    """Failed attempts are requests of one group with the answer; each arrives after the wait of the one before."""
    group = [r for r in rows(ingested(SAMPLES / "claude-code.cases.jsonl")) if r["attempt_group"] == "u3"]
    start = at("2026-08-21T12:00:00")
    assert [(r["attempt_no"], r["status"], r["http_status"]) for r in group] == [(0, "error", 529), (1, "error", None), (2, "ok", None)]  # fmt: skip
    assert [(r["arrival_ts"] - start).total_seconds() for r in group] == [7, 8.5, 10]
    assert [r["error_type"] for r in group] == ["overloaded_error", "FailedToOpenSocket", None]


def test_claude_code_copies_are_read_once(tmp_path: Path) -> None:
    """A session file and its copy under another session id: each call once, whichever comes first."""
    log = sample_records("claude-code")
    copy = [{**r, "sessionId": "other"} for r in log]
    (tmp_path / "a.jsonl").write_bytes(jsonl(log))
    (tmp_path / "b.jsonl").write_bytes(jsonl(copy))
    trace = ingest([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "t")
    assert trace.manifest["requests"] == 10 and not reasons(trace)
    assert {r["source_file"] for r in rows(trace)} == {"a.jsonl"}
    assert trace.manifest["skipped_by_reason"]["copied_from_another_session"] == sum("uuid" in r for r in log)


def test_claude_code_memory_is_one_conversation_s(
    ingested: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many sessions in one file: what was held is let go where a conversation begins, and nothing changes."""
    log = [
        {**r, "sessionId": f"s{i}", "uuid": f"{r.get('uuid')}-{i}", "parentUuid": r.get("parentUuid") and f"{r['parentUuid']}-{i}"}
        for i in range(3)
        for r in sample_records("claude-code")
        if "uuid" in r
    ]  # fmt: skip
    for r in log:
        if "message" in r and "id" in r["message"]:
            r["message"] = {**r["message"], "id": r["message"]["id"] + r["sessionId"]}
    kept = ingested(log)
    monkeypatch.setattr(claude_code, "HELD_BYTES", 1)
    monkeypatch.setattr(claude_code, "KEPT_PROMPTS", 1)
    freed = ingested(log)
    assert kept.manifest["requests"] == freed.manifest["requests"] == 30
    assert talk(kept) == talk(freed)


def test_claude_code_parents_in_a_circle_end(ingested: Ingested) -> None:
    """Damaged parents: the request is read, and the log ends."""
    log = [r for r in sample_records("claude-code") if "uuid" in r]
    log[0] = {**log[0], "parentUuid": log[2]["uuid"]}
    assert ingested(log).manifest["requests"] == 10


def test_codex_calls_end_with_their_report(ingested: Ingested) -> None:
    """A report that repeats the totals is no call; an interrupted call has no counts; compaction and forks are followed."""
    trace = ingested(SAMPLES / "codex.cases.jsonl")
    found, said = named(trace), talk(trace)
    a, b, c = (f"0199a1c4-0000-7000-8000-00000000000{x}" for x in "abc")
    assert sorted(found) == [f"{a}/{i}" for i in range(6)] + [f"{b}/0", f"{c}/0", f"{c}/1"]
    assert [found[f"{a}/{i}"]["input_tokens"] for i in range(6)] == [5000, 5200, None, 5400, 5600, 900]
    assert found[f"{a}/2"]["status"] == "cancelled" and found[f"{c}/1"]["status"] == "unknown"
    assert found[f"{a}/4"]["output_json"] is None
    assert said[f"{a}/1"][-2:] == [("assistant", ["call_1"]), ("tool", json.dumps({"output": "Success", "metadata": {"exit_code": 0}}, separators=(",", ":")))]  # fmt: skip
    assert [text for _, text in said[f"{a}/5"]] == [
        "You are a coding agent.",
        "Summary: the ferry leaves at seven.",
        "Which file was it?",
    ]
    assert said[f"{b}/0"] == [
        *said[f"{a}/1"],
        ("assistant", "Done: the ferry leaves at seven."),
        ("user", "Try eight o'clock."),
    ]
    assert trace.manifest["skipped_by_reason"]["copied_from_another_session"] == 2
    assert (
        found[f"{a}/3"]["model_requested"] == "gpt-5.4-mini"
        and found[f"{a}/3"]["params"]["reasoning_effort"] == "low"
    )


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("claude-code", {"type": "a-note-of-tomorrow", "sessionId": "s"}),
        ("codex", {"timestamp": "2026-08-21T12:00:00Z", "type": "tomorrow", "payload": {}}),
    ],
)
def test_records_of_a_type_that_is_not_known_yet_are_skipped(
    name: str, note: dict[str, Any], ingested: Ingested
) -> None:
    """New versions of an agent write records of new types: they tell of no call, and nothing is rejected."""
    log = sample_records(name)
    was, now = ingested(log), ingested([*log, note])
    assert now.manifest["requests"] == was.manifest["requests"] and not reasons(now)
    assert now.manifest["skipped"] == was.manifest["skipped"] + 1


def test_tracelab_takes_the_last_input_before_the_answer(ingested: Ingested) -> None:
    """Input that comes after the answer began belongs to the next round; cached is part of the total."""

    def event(kind: str, second: int) -> dict[str, Any]:
        return {"event_type": kind, "timestamp": f"2026-06-01T05:40:{second:02d}Z"}

    record = {
        "session_id": "s", "round_index": 3, "input_tokens_total": 100, "prefix_tokens": 120, "output_tokens": 5,
        "timing_events": [event("tool_result", 1), event("tool_result", 4), event("text", 6), event("tool_result", 7), event("tool_call", 9)],
    }  # fmt: skip
    row = one(ingested, record)
    assert (row["arrival_ts"], row["end_ts"]) == (at("2026-06-01T05:40:04"), at("2026-06-01T05:40:09"))
    assert row["cached_input_tokens"] is None and "bad_cached_tokens" in row["quality"]
    row = one(ingested, {**record, "timing_events": [], "prefix_tokens": 60})
    assert (row["clock"], row["arrival_ts"], row["cached_input_tokens"]) == ("none", None, 60)
