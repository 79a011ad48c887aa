"""What the bytes of answers mean: real ones of eight servers, written ones of the others, split and damaged ones."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceprof.engines.answers import (
    DIALECTS,
    Answer,
    Received,
    message_of,
    output_hash,
    read_answer,
)

DATA = Path(__file__).parent / "data" / "answers"
SSE = "text/event-stream"


def captured(name: str) -> tuple[int, str, bytes]:
    """Status, content type and body of a file of tests/data/answers."""
    raw = (DATA / name).read_bytes()
    if name.endswith(".sse"):
        return 200, SSE, raw
    head, _, body = raw.partition(b"\n\n")
    lines = head.decode().splitlines()
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers.get("content-type", ""), body


def read(name: str) -> Answer:
    """The answer in a file, as if it came in one receive at 7 us."""
    status, content_type, body = captured(name)
    dialect = "completions" if ".completions" in name else "chat"
    return read_answer(dialect, status, content_type, [Received(body, 7)])


STREAMS = [  # file, events with content, finish, input, output, reasoning, cached, state, source
    ("vllm.chat.sse", 12, "length", 35, 12, None, 0, "told", "usage"),
    ("vllm.chat.hit.sse", 4, "length", 435, 4, None, 384, "told", "usage"),
    ("vllm.chat.untold.sse", 4, "length", 435, 4, None, None, "absent", "usage"),
    ("vllm.chat.no_usage.sse", 12, "length", None, None, None, None, "absent", "none"),
    ("vllm.completions.sse", 12, "length", 22, 12, None, 0, "told", "usage"),
    ("sglang.chat.hit.sse", 4, "length", 435, 4, 0, 423, "told", "usage"),
    ("sglang.chat.null.sse", 3, "length", 434, 4, 0, None, "null", "usage"),
    ("sglang.completions.sse", 11, "length", 22, 12, 0, 0, "told", "usage"),
    ("llamacpp.chat.sse", 12, "length", 35, 12, None, 0, "told", "usage"),
    ("llamacpp.chat.no_usage.sse", 12, "length", 35, 12, None, 34, "told", "usage"),
    ("llamacpp.completions.sse", 12, "length", 22, 12, None, 0, "told", "usage"),
    ("llama_cpp_python.chat.sse", 12, "length", None, None, None, None, "absent", "none"),
    ("mlx_lm.chat.sse", 12, "length", 35, 12, None, 3, "told", "usage"),
    ("mlx_lm.chat.hit.sse", 4, "length", 435, 4, None, 423, "told", "usage"),
    ("mlx_lm.completions.sse", 12, "length", 22, 12, None, 0, "told", "usage"),
    ("dynamo.chat.hit.sse", 4, "length", 435, 4, None, 384, "told", "usage"),
    ("dynamo.chat.untold.sse", 4, "length", 435, 4, None, None, "absent", "usage"),
    ("litellm.chat.hit.sse", 4, "length", 435, 4, 0, 423, "told", "usage"),
    ("litellm.completions.sse", 12, "length", 22, 12, 0, None, "absent", "usage"),
    ("vllm.chat.whole.http", 1, "length", 33, 12, None, 0, "told", "usage"),
    ("sglang.chat.whole.http", 1, "length", 33, 12, 0, 3, "told", "usage"),
    ("llamacpp.chat.whole.http", 1, "length", 33, 12, None, 0, "told", "usage"),
    ("mlx_lm.chat.whole.http", 1, "length", 33, 12, None, 3, "told", "usage"),
    ("dynamo.chat.whole.http", 1, "length", 33, 12, None, 0, "told", "usage"),
]  # fmt: skip


@pytest.mark.parametrize("row", STREAMS, ids=lambda row: row[0])
def test_real_answers_read_to_what_was_read_off_them_by_hand(row):
    """Chunks, finish and counts of streams and whole answers; absent, null and 0 cached tokens are three states."""
    name, chunks, finish, asked, made, hidden, cached, state, source = row
    answer = read(name)
    assert (answer.outcome, answer.error_type, answer.finish_reason) == ("ok", None, finish)
    assert (answer.input_tokens, answer.output_tokens, answer.reasoning_tokens) == (asked, made, hidden)
    assert (answer.cached_tokens, answer.cached_state, answer.tokens_source) == (cached, state, source)
    assert len(answer.chunk_us) == len(answer.chunk_chars) == chunks
    assert sum(answer.chunk_chars) == len(answer.text) > 0


ERRORS = [  # file, outcome, type
    ("vllm.chat.too_long.http", "http_error", "BadRequestError"),
    ("vllm.chat.unknown_model.http", "http_error", "NotFoundError"),
    ("vllm.chat.404.http", "http_error", None),  # {"detail": "Not Found"}
    ("sglang.chat.too_long.http", "http_error", "BadRequestError"),  # no "error" around it
    ("sglang.chat.missing_messages.http", "http_error", "Bad Request"),
    ("llamacpp.chat.too_long.http", "http_error", "exceed_context_size_error"),
    ("llamacpp.chat.404.http", "http_error", "not_found_error"),
    ("mlx_lm.chat.unknown_model.http", "http_error", None),  # {"error": "text"}: the text is none of ours
    ("mlx_lm.chat.404.http", "http_error", None),
    ("dynamo.chat.unknown_model.http", "http_error", "Not Found"),  # {"message", "type", "code"}
    (
        "dynamo.chat.too_long.http",
        "stream_error",
        "internal_server_error",
    ),  # 200, then an error in the stream
    ("litellm.chat.missing_messages.http", "http_error", "500"),  # type "None", in words
    ("vllm_router.chat.missing_messages.http", "http_error", None),  # plain text
    ("llama_cpp_python.chat.too_long.http", "empty", None),  # 200 and nothing
]


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: row[0])
def test_real_errors_read_to_their_type(row):
    """Every shape of error body; what it says in words is not kept."""
    name, outcome, error_type = row
    answer = read(name)
    assert (answer.outcome, answer.error_type) == (outcome, error_type)
    assert (answer.first_token_us, answer.chunk_us, answer.text) == (None, [], "")


@pytest.mark.parametrize("name", ["llamacpp.chat.unknown_model.http", "sglang.chat.unknown_model.http"])
def test_an_unknown_model_that_is_answered_all_the_same_is_an_answer(name):
    """llama.cpp and SGLang answer whatever the model is called."""
    assert read(name).outcome == "ok"


def test_four_engines_said_the_same_words():
    """The same weights, the same prompt, greedy: one text, and one hash."""
    answers = [read(f"{e}.chat.sse") for e in ("vllm", "llamacpp", "mlx_lm", "llama_cpp_python")]
    assert len({answer.text for answer in answers}) == 1
    assert len({output_hash(answer) for answer in answers}) == 1
    assert output_hash(read("vllm.completions.sse")) != output_hash(answers[0])


def events(*values: dict, done: bool = True) -> bytes:
    """A stream of server-sent events."""
    body = b"".join(b"data: " + json.dumps(v).encode() + b"\n\n" for v in values)
    return body + (b"data: [DONE]\n\n" if done else b"")


def typed(*values: dict) -> bytes:
    """A stream whose events are named by their type."""
    return b"".join(f"event: {v['type']}\ndata: {json.dumps(v)}\n\n".encode() for v in values)


def whole(dialect: str, body: bytes, status: int = 200, content_type: str = SSE) -> Answer:
    """An answer that came in one receive."""
    return read_answer(dialect, status, content_type, [Received(body, 7)])


def delta(**said):
    """A chunk of a chat."""
    return {"choices": [{"index": 0, "delta": said}]}


def test_tokens_are_timed_by_the_receive_that_brought_the_last_byte_of_their_event():
    """An event in three receives counts from the third; two events in one receive share its time."""
    first = events(delta(role="assistant", content=""), done=False)
    second = events(delta(content="a"), done=False)
    third = events(delta(content="bc"), delta(content="d"), done=False)
    last = events({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    cut = second.index(b"}")
    pieces = [first, second[:3], second[3:cut], second[cut:], third, last]
    answer = read_answer("chat", 200, SSE, [Received(p, 10 * i) for i, p in enumerate(pieces)])
    assert (answer.chunk_us, answer.chunk_chars) == ([30, 40, 40], [1, 2, 1])
    assert (answer.first_token_us, answer.last_token_us) == (30, 40)


def test_an_event_is_there_with_its_last_byte_and_not_with_the_empty_line_behind_it():
    """Some servers send the line end with the next event."""
    body = events(delta(content="a"), delta(content="b"))
    cut = body.index(b"\n\n")
    answer = read_answer("chat", 200, SSE, [Received(body[:cut], 1), Received(body[cut:], 2)])
    assert answer.chunk_us == [1, 2]


def test_the_first_token_is_the_first_thing_said_be_it_a_thought_or_a_tool_call():
    """Roles, empty strings, nulls and usage are not tokens."""
    for said in (
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
        {"function_call": {"name": "f"}},
        {"refusal": "no"},
        {"content": [{"type": "text", "text": "hi"}]},
    ):
        pieces = [
            events(delta(role="assistant", content=None), delta(content=""), {"choices": []}, done=False),
            events(delta(**said), done=False),
            events({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        ]
        answer = read_answer("chat", 200, SSE, [Received(p, i) for i, p in enumerate(pieces)])
        assert (answer.outcome, answer.chunk_us, answer.output_tokens) == ("ok", [1], 1)


def test_a_thought_under_both_its_names_is_one_thought():
    """TensorRT-LLM sends reasoning and reasoning_content alike."""
    answer = whole("chat", events(delta(reasoning="hm", reasoning_content="hm"), delta(content="hi")))
    assert (answer.reasoning, answer.text, answer.chunk_chars) == ("hm", "hi", [2, 2])


def test_tool_calls_are_put_together_and_sent_back_as_they_came():
    """Pieces of arguments by the number of their call."""
    answer = whole(
        "chat",
        events(
            delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": ""}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a": '}}]),
            delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "go", "arguments": "{}"}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
            {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
        ),
    )
    assert message_of(answer) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "go", "arguments": "{}"}},
        ],
    }
    assert answer.chunk_chars == [4, 6, 4, 2]


def test_of_several_choices_all_count_and_the_first_is_kept():
    """n > 1."""
    answer = whole(
        "chat",
        events(
            {"choices": [{"index": 1, "delta": {"content": "no"}}]},
            {"choices": [{"index": 0, "delta": {"content": "yes"}}]},
            {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ),
    )
    assert (answer.text, answer.finish_reason, answer.chunk_chars) == ("yes", "stop", [2, 3])


RESPONSES = typed(
    {"type": "response.created", "response": {"status": "in_progress", "error": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
    {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "Hello"},
    {"type": "response.output_text.done", "output_index": 1, "text": "Hello"},
    {
        "type": "response.output_item.added",
        "output_index": 2,
        "item": {"type": "function_call", "name": "go", "call_id": "c1", "arguments": ""},
    },
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
    {
        "type": "response.completed",
        "response": {
            "status": "completed",
            "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]},
                {"type": "function_call", "name": "go", "call_id": "c1", "arguments": "{}"},
            ],
            "usage": {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 32},
                "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
        },
    },
)
MESSAGES = typed(
    {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 10, "output_tokens": 1}}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "xyz"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "c1", "name": "go", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)  # fmt: skip
OLLAMA = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"message": {"role": "assistant", "content": "Hello"}, "done": False},
        {"message": {"content": "", "tool_calls": [{"function": {"name": "go", "arguments": {}}}]}, "done": False},
        {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 45, "eval_count": 9},
    )
)  # fmt: skip


@pytest.mark.parametrize(
    "dialect, body, asked, cached, state, hidden, finish",
    [
        ("responses", RESPONSES, 36, 32, "told", 4, "completed"),
        ("messages", MESSAGES, 45, 30, "told", None, "tool_use"),
        ("ollama", OLLAMA, 45, None, "absent", None, "stop"),
    ],
)
def test_the_other_dialects_say_the_same(dialect, body, asked, cached, state, hidden, finish):
    """A thought, a word, a tool call and nine tokens, in three ways."""
    answer = whole(dialect, body)
    assert (answer.outcome, answer.finish_reason) == ("ok", finish)
    assert (answer.reasoning, answer.text, answer.chunk_chars[:2]) == ("hm", "Hello", [2, 5])
    assert [call["function"] for call in answer.tool_calls] == [{"name": "go", "arguments": "{}"}]
    assert (answer.input_tokens, answer.output_tokens, answer.reasoning_tokens) == (asked, 9, hidden)
    assert (answer.cached_tokens, answer.cached_state) == (cached, state)


def test_whole_answers_of_the_other_dialects_are_one_chunk():
    """As they are without a stream."""
    last = json.loads(RESPONSES.rsplit(b"data: ", 1)[1])["response"]
    message = {
        "type": "message",
        "content": [{"type": "text", "text": "Hello"}, {"type": "tool_use", "id": "c1", "name": "go", "input": {}}],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 45, "output_tokens": 9},
    }  # fmt: skip
    spoken = {
        "response": "Hello",
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 4,
        "eval_count": 1,
    }
    generated = [{"generated_text": "Hello", "details": {"finish_reason": "length", "generated_tokens": 2, "prefill": [{"id": 1}]}}]  # fmt: skip
    for dialect, value in (
        ("responses", last),
        ("messages", message),
        ("ollama", spoken),
        ("tgi", generated),
    ):
        answer = whole(dialect, json.dumps(value, indent=1).encode(), content_type="application/json")
        assert (answer.outcome, answer.text, answer.chunk_us) == ("ok", "Hello", [7]), dialect
        assert answer.tokens_source == "usage"


def test_tgi_streams_tokens_and_ends_with_the_whole_text():
    """Special tokens are not said; an error comes as an event."""
    body = (
        b'data:{"index":1,"token":{"id":9,"text":"Hel","special":false},"generated_text":null,"details":null}\n\n'
        b'data:{"index":2,"token":{"id":8,"text":"lo","special":false},"generated_text":null,"details":null}\n\n'
        b'data:{"index":3,"token":{"id":2,"text":"</s>","special":true},"generated_text":"Hello",'
        b'"details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"input_length":11}}\n\n'
    )
    answer = whole("tgi", body)
    assert (answer.text, answer.chunk_chars, answer.finish_reason) == ("Hello", [3, 2], "eos_token")
    assert (answer.input_tokens, answer.output_tokens, answer.cached_state) == (11, 3, "absent")
    error = whole("tgi", b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n')
    assert (error.outcome, error.error_type) == ("stream_error", "overloaded")


def test_lmdeploy_generates_from_token_ids():
    """Text in pieces, counts and reason under meta_info."""
    body = events(
        {"text": "Hel", "output_ids": [1], "meta_info": {"prompt_tokens": 5, "completion_tokens": 1, "finish_reason": None}},
        {"text": "lo", "output_ids": [2], "meta_info": {"prompt_tokens": 5, "completion_tokens": 2, "finish_reason": {"type": "length"}}},
    )  # fmt: skip
    answer = whole("lmdeploy", body)
    assert (answer.text, answer.finish_reason) == ("Hello", "length")
    assert (answer.input_tokens, answer.output_tokens) == (5, 2)


def test_an_ollama_error_in_a_stream_is_one():
    """A line {"error": "text"} after tokens."""
    body = OLLAMA.splitlines(keepends=True)[1] + b'{"error":"an error was encountered"}\n'
    answer = whole("ollama", body, content_type="application/x-ndjson")
    assert (answer.outcome, answer.error_type, answer.chunk_chars) == ("stream_error", None, [5])


@pytest.mark.parametrize(
    "body, outcome, error_type",
    [
        (events(delta(content="a"), done=False), "malformed", "truncated"),
        (b'data: {"choices": [{"del\n\n' + events(delta(content="a")), "malformed", "not_json"),
        (events({"choices": [{"delta": {"content": 5}}]}), "malformed", "wrong_shape"),
        (events({"choices": {"delta": {}}}), "malformed", "wrong_shape"),
        (events(delta(content="a"), {"error": {"type": "overloaded", "message": "m"}}), "stream_error", "overloaded"),
        (events(delta(content="a"), {"choices": [{"delta": {}, "finish_reason": "error"}]}), "stream_error", "error"),
        (b'event: error\ndata: {"message": "m"}\n\n', "stream_error", None),
        (b"<html><body>log in</body></html>", "malformed", "no_stream"),
        (b": keepalive\n\n: keepalive\n\n", "empty", None),
        (events(delta(role="assistant", content="")), "empty", None),
        (b"data: [DONE]\n\n", "empty", None),
        (b"data:\n\n", "empty", None),
        (b"", "empty", None),
        (events({"choices": [{"delta": {}, "finish_reason": "stop"}]}), "ok", None),
    ],
)  # fmt: skip
def test_streams_that_go_wrong_are_outcomes(body, outcome, error_type):
    """What ended early, was not JSON, was nothing: each has a name. An end at once is an answer."""
    answer = whole("chat", body)
    assert (answer.outcome, answer.error_type) == (outcome, error_type)


def test_a_whole_error_in_place_of_a_stream_is_an_error():
    """200, text/event-stream, and a JSON object."""
    body = json.dumps({"error": {"message": "m", "type": "server_error"}}).encode()
    assert whole("chat", body)[:2] == ("stream_error", "server_error")


def test_counts_that_are_none_are_not_taken():
    """Texts, negatives, truths, fractions and what no column holds."""
    for bad in ("12", -1, True, 1.5, 2**31, None, [3]):
        usage = {
            "prompt_tokens": bad,
            "completion_tokens": bad,
            "prompt_tokens_details": {"cached_tokens": bad},
        }
        answer = whole("chat", events(delta(content="a"), {"choices": [], "usage": usage}))
        assert (answer.input_tokens, answer.output_tokens, answer.tokens_source) == (None, None, "none")
        assert (answer.cached_tokens, answer.cached_state) == (None, "null")


def test_cached_tokens_are_found_in_their_other_places():
    """oMLX at the top of usage, DeepSeek by another name, llama.cpp in its timings."""
    for extra in (
        {"usage": {"prompt_tokens": 9, "cached_tokens": 6}},
        {"usage": {"prompt_tokens": 9, "prompt_cache_hit_tokens": 6}},
        {"usage": {"prompt_tokens": 9}, "timings": {"cache_n": 6, "prompt_n": 3, "predicted_n": 1}},
        {"timings": {"cache_n": 6, "prompt_n": 3, "predicted_n": 1}},
    ):
        answer = whole("chat", events(delta(content="a"), {"choices": [], **extra}))
        assert (answer.cached_tokens, answer.cached_state, answer.input_tokens) == (6, "told", 9)


def test_usage_in_every_event_counts_as_its_last():
    """Servers that count as they go."""
    body = events(*({**delta(content="a"), "usage": {"completion_tokens": n}} for n in (1, 2, 3)))
    assert whole("chat", body).output_tokens == 3


def test_the_words_of_an_error_are_nowhere():
    """A message that is put into the type, code or detail does not get out."""
    secret = "my prompt: do not tell!"
    for error in ({"type": secret, "message": secret}, {"code": secret}, secret, {"type": secret * 9}):
        for status in (200, 400):
            answer = whole("chat", json.dumps({"error": error}).encode(), status)
            assert secret not in repr(answer)


def test_halves_of_a_character_are_put_together():
    """A surrogate pair that was escaped in two events; half of one alone is replaced."""
    body = b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\ndata: {"choices": [{"delta": {"content": "\\ude00"}}]}\n\n'
    assert whole("chat", body + b"data: [DONE]\n\n").text == "😀"
    assert whole("chat", body.partition(b"\n\n")[0] + b"\n\ndata: [DONE]").text == "\ufffd"


def test_line_ends_comments_and_long_events_are_as_the_standard_says():
    """CR, LF and CR LF; a BOM; data in several lines; no space after the colon; ids and retries."""
    expected = whole("chat", events(delta(content="hi")))
    text = json.dumps(delta(content="hi"), indent=1)
    for end in ("\r", "\n", "\r\n"):
        lines = [
            "\ufeff: c",
            "id: 3",
            "retry: 5",
            *(f"data:{line}" for line in text.splitlines()),
            "",
            "data:[DONE]",
        ]
        assert whole("chat", end.join(lines).encode()) == expected


BODIES = [
    *((row[0], "completions" if ".completions" in row[0] else "chat", *captured(row[0])) for row in STREAMS),
    *((row[0], "chat", *captured(row[0])) for row in ERRORS),
    ("responses", "responses", 200, SSE, RESPONSES),
    ("messages", "messages", 200, SSE, MESSAGES),
    ("ollama", "ollama", 200, "application/x-ndjson", OLLAMA),
]


def timeless(answer: Answer) -> Answer:
    return answer._replace(first_token_us=None, last_token_us=None, chunk_us=[])


@given(st.sampled_from(BODIES), st.data())
def test_where_the_bytes_were_cut_changes_nothing_but_times(case, data):
    """Any cuts give the same answer; times never fall, and each is of the receive with the event's last byte."""
    _, dialect, status, content_type, body = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    bounds = [0, *cuts, len(body)]
    pieces = [Received(body[a:b], 100 + i) for i, (a, b) in enumerate(pairwise(bounds))]
    answer = read_answer(dialect, status, content_type, pieces)
    assert timeless(answer) == timeless(read_answer(dialect, status, content_type, [Received(body, 0)]))
    assert answer.chunk_us == sorted(answer.chunk_us)
    # the obvious twin: feed it one byte more at a time, and see when a chunk is there
    position = {}
    seen = 0
    for n in (0, *cuts, len(body)):
        so_far = len(read_answer(dialect, status, content_type, [Received(body[:n], 0)]).chunk_us)
        for chunk in range(seen, so_far):
            position[chunk] = n
        seen = max(seen, so_far)
    for chunk, at in enumerate(answer.chunk_us):
        assert bounds[at - 100 + 1] == position[chunk]


@given(st.sampled_from(BODIES), st.data())
def test_damage_never_raises(case, data):
    """Bytes changed, cut out and put in, read as any dialect."""
    _, _, status, content_type, body = case
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"null", b"{", b"[", b'"', b"-1", b"1e999", b"\n\n", b"true"])
        )
    dialect = data.draw(st.sampled_from(DIALECTS))
    answer = read_answer(dialect, status, content_type, [Received(bytes(damaged), 1)])
    assert len(answer.chunk_us) == len(answer.chunk_chars)
    assert answer.outcome in ("ok", "http_error", "stream_error", "malformed", "empty")
    answer.text.encode()
    output_hash(answer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "usage", "type", "message", "error", "text", "tool_calls", "function", "index",
                 "response", "output", "status", "token", "details", "done", "meta_info", "finish_reason", "timings", "cache_n",
                 "prompt_tokens_details", "content_block", "partial_json", "name", "arguments", "code", "detail"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.sampled_from(DIALECTS), st.lists(json_values, max_size=3), st.sampled_from([200, 503]))
def test_any_json_in_any_place_is_read_without_raising(dialect, values, status):
    """Right keys, wrong values."""
    body = b"".join(b"data: " + json.dumps(v).encode() + b"\n\n" for v in values)
    answer = read_answer(dialect, status, SSE, [Received(body, 1)])
    assert answer.outcome == "http_error" if status == 503 else answer.outcome != "http_error"
