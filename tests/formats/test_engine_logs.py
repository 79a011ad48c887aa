"""What only the logs of engines and local servers have: vLLM, SGLang, TGI, llama.cpp, Ollama, Dynamo."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLES, jsonl, reasons, rows, sample_records

from traceprof import bodies
from traceprof.bodies import literals, sglang
from traceprof.formats import dynamo, linetimes, llamacpp_log, ollama_log, pairs, sglang_log, tgi, vllm_log
from traceprof.formats.base import BadRecord, Request, Skip
from traceprof.ingest import Record, ingest
from traceprof.trace import Trace

Ingested = Callable[..., Trace]


def us(said: str) -> int:
    """Microseconds since 1970 of a UTC time."""
    return round(datetime.fromisoformat(said).replace(tzinfo=UTC).timestamp() * 1_000_000)


def read(module: Any, log: list[Any] | str, file: str = "a.log") -> list[Any]:
    """What each line of a log becomes, in the order of the log."""
    lines = log.splitlines() if isinstance(log, str) else log
    records = [
        Record(file, i, line.encode() if isinstance(line, str) else b"x", line)
        for i, line in enumerate(lines, 1)
    ]
    found = {record.row: result for record, result in module.read_all(records)}
    assert sorted(found) == list(range(1, len(lines) + 1))
    return [found[row] for row in sorted(found)]


def requests(module: Any, log: list[Any] | str) -> list[Request]:
    """The requests of a log, in the order of their lines."""
    return [r for r in read(module, log) if isinstance(r, Request)]


# -- Python literals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "it's", 'say "no"', "both ' and \"", "tab\tnew\nline\\n", "é 注文 \U0001f600 \x07", "", [1, 2, 3], [], {}, [[1], [2.5]],
        {"a": [None, True, {"b": "', params: x(y=1)"}]}, -1.5e-7, 10**30, ("a", 1), None, "x" * 5000 + "\\" * 5001,
    ],
)  # fmt: skip
def test_what_repr_writes_is_read_back(value: Any) -> None:
    """The scanner reads strings, numbers, lists and dicts as Python's repr writes them; a tuple as a list."""
    text = f"before {value!r}, after"
    found, end = literals.value(text, 7)
    assert found == (list(value) if isinstance(value, tuple) else value)
    assert text[end:] == ", after"


@pytest.mark.parametrize(
    "text", ["", "[", "{'a", "x(", "['a', ", "{'a': ", "(" * 10_000, "[1, 2", "'abc", "x(a=", "\\"]
)
def test_what_is_no_literal_is_told(text: str) -> None:
    """A cut or too deep literal raises, and nothing else happens."""
    with pytest.raises(literals.BadLiteral):
        literals.value(text)


def test_calls_are_never_made() -> None:
    """A call is the dict of its keyword arguments, whatever its name; an enum is its text."""
    found, _ = literals.value("__import__('os').system('x')")
    assert found == {}
    found, _ = literals.value(
        "P(n=2, kind=<Kind.DELTA: 1>, stop=['a'], inner=Q(json='{}'), stream=False, seed=None)"
    )
    assert found == {
        "n": 2,
        "kind": "<Kind.DELTA: 1>",
        "stop": ["a"],
        "inner": {"json": "{}"},
        "stream": False,
    }


def test_a_lone_surrogate_becomes_a_replacement() -> None:
    """repr writes lone surrogates, which no file can hold."""
    assert literals.value("'a\\udc80b'")[0] == "a\ufffdb"


# -- times of lines ----------------------------------------------------------------------------------------

NOW = datetime(2027, 1, 5, tzinfo=UTC).timestamp()


def test_the_year_is_the_last_that_fits_and_turns_at_new_year() -> None:
    """Lines of December and January, read on January 5th 2027, lie in 2026 and 2027."""
    clock = linetimes.LineClock(NOW)
    got = [clock.read(f"INFO {day} [a.py:1] ") for day in ("12-31 23:59:59", "01-01 00:00:01")]
    assert [at.us for at in got] == [us("2026-12-31T23:59:59"), us("2027-01-01T00:00:01")]
    assert got[0].assumed == ("year_assumed", "tz_assumed") and got[0].resolution_us == 1_000_000


def test_the_years_of_a_log_follow_one_another() -> None:
    """A log that ends later in the year than today began a year earlier than its last line looks."""
    clock = linetimes.LineClock(NOW)
    got = [
        clock.read(f"INFO {day} [a.py:1] ").us
        for day in ("06-01 00:00:00", "11-01 00:00:00", "03-01 00:00:00")
    ]
    assert got == [us("2026-06-01T00:00:00"), us("2026-11-01T00:00:00"), us("2027-03-01T00:00:00")]


def test_a_leap_day_lies_in_a_leap_year() -> None:
    """02-29 exists in no year near 2026 but 2024 and 2028: with a stamp of 2024 it is read, without one it has no time."""
    assert linetimes.LineClock(NOW).read("INFO 02-29 10:00:00 [a.py:1] ").us is None
    stamped = linetimes.LineClock(NOW).read("2024-02-29T08:00:00.5Z INFO 02-29 10:00:00 [a.py:1] ")
    assert stamped.us == us("2024-02-29T08:00:00.5")


@pytest.mark.parametrize(
    ("stamp", "taken"),
    [
        ("2026-08-21T10:00:00.250Z", "2026-08-21T10:00:00.250"),  # the server's zone is +02:00
        ("2026-08-21T04:30:01.100Z", "2026-08-21T04:30:01.100"),  # it is +07:30, the collector a second late
        ("2026-08-21T10:07:00.000Z", "2026-08-21T12:00:00"),  # collected minutes later: the line's own time
        ("2026-09-30T10:00:00.000Z", "2026-08-21T12:00:00"),  # collected weeks later
    ],
)
def test_a_collectors_stamp_is_the_time_when_it_is_of_the_same_moment(stamp: str, taken: str) -> None:
    """A stamp that differs from the line's time by quarters of an hour, give or take seconds, is the same moment in UTC."""
    at = linetimes.LineClock(NOW).read(f"{stamp} INFO 08-21 12:00:00 [a.py:1] ")
    assert at.us == us(taken)
    assert ("tz_assumed" in at.assumed) == (taken == "2026-08-21T12:00:00")


# -- vLLM --------------------------------------------------------------------------------------------------

PARAMS = "SamplingParams(n=1, temperature=0.2, top_p=1.0, top_k=0, seed=None, stop=[], max_tokens=8)"
AT = "INFO 08-21 12:00:00 [logger.py:43] "


def received(name: str, prompt: str | None, ids: Any = None, params: str = PARAMS) -> str:
    """A line of vLLM up to 0.11.0."""
    return (
        f"{AT}Received request {name}: prompt: {prompt!r}, params: {params}, prompt_token_ids: {ids}, "
        "prompt_embeds shape: None, lora_request: None."
    )


def test_vllm_prompt_that_looks_like_the_line_around_it() -> None:
    """A prompt may hold what a line holds: quotes, `', params:`, another `Received request`."""
    prompt = "say 'Received request x: prompt: \"y\", params: SamplingParams(n=3)', prompt_token_ids: [1]"
    (q,) = requests(vllm_log, received("chatcmpl-1", prompt, [7, 8]))
    assert (q.prompt_text, q.input_ids, q.params) == (
        prompt,
        [7, 8],
        {"temperature": 0.2, "top_p": 1.0, "top_k": 0, "n": 1},
    )


def test_vllm_generations_say_the_same() -> None:
    """The prompt in one INFO line, and split over DEBUG and INFO lines, is the same request."""
    old = received("chatcmpl-1", "hello", [1, 2])
    new = (
        "(APIServer pid=7) DEBUG 08-21 12:00:00 [logger.py:38] Request chatcmpl-1 details: prompt: 'hello', "
        "prompt_token_ids: [1, 2], prompt_embeds shape: None.\n"
        f"(APIServer pid=7) {AT}Received request chatcmpl-1: params: {PARAMS}, lora_request: None."
    )
    oldest = (
        "INFO 08-21 12:00:00 async_llm_engine.py:436] Received request chatcmpl-1: prompt: 'hello', prefix_pos: None,"
        f"sampling_params: {PARAMS}, prompt_token_ids: [1, 2], lora_request: None."
    )
    (a,), (b,), (c,) = (requests(vllm_log, log) for log in (old, new, oldest))
    assert a == b == c and a.input_tokens == 2 and a.max_output_tokens == 8


def test_vllm_info_alone_has_no_prompt() -> None:
    """From 0.11.1 on the INFO line has parameters and no prompt: the row says so."""
    (q,) = requests(vllm_log, f"{AT}Received request chatcmpl-1: params: {PARAMS}, lora_request: None.")
    assert (q.content_level, q.content_state, q.input_tokens) == ("lengths", "absent", None)


def test_vllm_limit_of_the_log_cuts_prompts() -> None:
    """--max-log-len cuts text and ids without a mark: what is as long as the limit is no whole prompt."""
    start = "INFO 08-21 11:59:00 [utils.py:233] non-default args: {'model': 'm', 'max_log_len': 20}"
    log = [
        start,
        received("chatcmpl-1", "x" * 20),
        received("chatcmpl-2", "y" * 20, list(range(7))),
        received("chatcmpl-3", "z" * 20, list(range(20))),
        received("chatcmpl-4", "short", list(range(3))),
    ]
    a, b, c, d = requests(vllm_log, log)
    assert (a.content_state, a.prompt_text) == ("truncated", "x" * 20)
    assert (b.content_state, b.input_ids, b.prompt_text) == ("complete", list(range(7)), None)
    assert "prompt_text_truncated" in b.quality
    assert (c.content_state, c.input_ids, c.input_tokens) == ("truncated", None, None)
    assert (d.content_state, d.prompt_text, d.input_ids) == ("complete", "short", [0, 1, 2])


def test_vllm_cut_at_one_length_is_told_without_the_servers_first_lines() -> None:
    """Text and ids of one length, which no tokenizer makes of a long text, were cut."""
    (q,) = requests(vllm_log, received("chatcmpl-1", "a word, " * 8, list(range(64))))
    assert (q.content_state, q.input_ids) == ("truncated", None)


def test_vllm_bodies_find_their_requests() -> None:
    """A JSON body belongs to the request of its id, else to the first whose prompt holds its last words."""

    def body(name: str, said: str) -> str:
        whole = {"model": "m", "messages": [{"role": "user", "content": said}], "max_tokens": 8}
        return f"DEBUG 08-21 12:00:00 [a.py:1] Request {name} JSON body: {json.dumps(whole)}"

    log = [
        body("aaaa", "first"),
        body("bbbb", "second"),
        body("cccc", "third"),
        received("chatcmpl-cccc", "<u>third</u>"),
        received("chatcmpl-x2", "<u>second</u>"),
        received("chatcmpl-x1", "<u>first</u>"),
    ]
    found = {
        q.request_id: (json.loads(q.messages_json or "[]")[0]["content"], q.quality)
        for q in requests(vllm_log, log)
    }
    assert {name: said for name, (said, _) in found.items()} == {
        "chatcmpl-cccc": "third", "chatcmpl-x2": "second", "chatcmpl-x1": "first",
    }  # fmt: skip
    assert [("joined_by_order" in flags) for _, flags in found.values()] == [False, True, True]


def test_vllm_prompts_of_one_call_share_its_body() -> None:
    """A text completion of two prompts is two requests, cmpl-ID-0 and cmpl-ID-1, with one body."""
    body = {"model": "m", "prompt": ["a", "b"], "max_tokens": 4, "user": "u"}
    log = [
        f"DEBUG 08-21 12:00:00 [a.py:1] Request 77 JSON body: {json.dumps(body)}",
        received("cmpl-77-0", "a"),
        received("cmpl-77-1", "b"),
    ]
    found = requests(vllm_log, log)
    assert [(q.prompt_text, q.model_requested, q.user_id) for q in found] == [
        ("a", "m", "u"),
        ("b", "m", "u"),
    ]


def test_vllm_ends() -> None:
    """Answers, aborts, failures and V0's `Finished` end a request; without one it is incomplete where answers are logged."""
    log = [
        *(received(f"chatcmpl-{i}", f"p{i}") for i in range(6)),
        f"{AT}Generated response chatcmpl-0: output: 'it\\'s', output_token_ids: [5, 6], finish_reason: stop",
        f"{AT}Request chatcmpl-1 aborted.",
        f"{AT}Request chatcmpl-2 failed (bad request): too long.",
        f"{AT}Request chatcmpl-3 failed (engine dead).",
        "INFO 08-21 12:00:03 async_llm_engine.py:111] Finished request chatcmpl-4.",
    ]
    found = requests(vllm_log, log)
    assert [q.status for q in found] == ["ok", "cancelled", "rejected", "error", "ok", "incomplete"]
    assert (found[0].output_json, found[0].output_ids, found[0].finish_reason) == (
        b'{"role":"assistant","content":"it\'s"}', [5, 6], "stop",
    )  # fmt: skip
    assert found[4].end_us is not None and found[4].arrival_us is not None
    assert found[4].end_us - found[4].arrival_us == 3_000_000
    assert requests(vllm_log, log[:6])[0].status == "unknown"


def test_vllm_answers_under_the_name_of_a_call() -> None:
    """Answers of text completions name the call and come in the order of its prompts; those of Responses are the last turn's."""
    answer = f"{AT}Generated response {{}}: output: {{!r}}, output_token_ids: {{}}, finish_reason: stop"
    log = [
        received("cmpl-7-0", "a"),
        received("cmpl-7-1", "b"),
        received("cmpl-8-0", "c"),
        answer.format("cmpl-8", "C", [3]),
        answer.format("cmpl-7", "A", [1, 1]),
        answer.format("cmpl-7", "B", [2]),
        received("resp_9_0", "d"),
        received("resp_9_1", "d and a tool's result"),
        answer.format("resp_9", "D", [4]),
        received("chatcmpl-1", "e"),
    ]
    found = {q.request_id: (q.output_ids, q.status) for q in requests(vllm_log, log)}
    assert found == {
        "cmpl-7-0": ([1, 1], "ok"), "cmpl-7-1": ([2], "ok"), "cmpl-8-0": ([3], "ok"),
        "resp_9_0": (None, "unknown"), "resp_9_1": ([4], "ok"), "chatcmpl-1": (None, "incomplete"),
    }  # fmt: skip


def test_vllm_a_stream_whose_end_tells_a_number_only() -> None:
    """`<streaming_complete: 5 tokens>`, where a version keeps no text of a stream, is a count and not what the model said."""
    delta = f"{AT}Generated response chatcmpl-1 (streaming delta): output: {{!r}}, output_token_ids: {{}}, finish_reason: {{}}"
    end = (
        f"{AT}Generated response chatcmpl-1 (streaming complete): output: '<streaming_complete: 5 tokens>', "
        "output_token_ids: None, finish_reason: streaming_complete"
    )
    pieces = [delta.format("It ", [1, 2], None), delta.format("shipped.", [3, 4], "stop")]
    (q,) = requests(vllm_log, [received("chatcmpl-1", "a"), *pieces, end])
    assert (q.output_json, q.output_tokens, q.finish_reason, q.status, q.stream) == (
        b'{"role":"assistant","content":"It shipped."}', 5, "stop", "ok", True,
    )  # fmt: skip
    assert "output_ids_from_deltas" in q.quality
    (q,) = requests(vllm_log, [received("chatcmpl-1", "a"), end])
    assert (q.output_json, q.output_tokens, q.quality.count("output_ids_from_deltas")) == (None, 5, 0)


def test_vllm_the_same_id_again_is_another_request() -> None:
    """Clients that send one x-request-id twice make two requests."""
    found = requests(vllm_log, [received("chatcmpl-1", "a"), received("chatcmpl-1", "b")])
    assert [q.prompt_text for q in found] == ["a", "b"]


def test_vllm_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose end never comes are given out, oldest first, once they hold more than the limit."""
    monkeypatch.setattr(vllm_log, "HELD_BYTES", 2_000)
    lines = [received(f"chatcmpl-{i}", "p" * 200) for i in range(50)]
    order: list[int] = []
    seen: list[int] = []

    def records() -> Any:
        for i, line in enumerate(lines, 1):
            seen.append(i)
            yield Record("a.log", i, line.encode(), line)

    for record, _ in vllm_log.read_all(records()):
        assert seen[-1] - record.row < 10 or len(seen) == 50
        order.append(record.row)
    assert order == list(range(1, 51))


def test_vllm_a_body_that_nothing_follows_does_not_wait_for_the_end() -> None:
    """Ten minutes after it was logged, a body without a request is given out: later requests are not held against it."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
    log = [f"DEBUG 08-21 12:{m:02d}:00 [a.py:1] Request b{m} JSON body: {body}" for m in (0, 5, 11)]
    records = [Record("a.log", i, line.encode(), line) for i, line in enumerate([*log, "end"], 1)]
    assert [record.row for record, _ in vllm_log.read_all(records)] == [1, 4, 2, 3]


def test_vllm_cut_line_costs_itself(ingested: Ingested) -> None:
    """A line that breaks off in its prompt is rejected, and the others are read."""
    whole, cut = received("chatcmpl-1", "hello there"), received("chatcmpl-2", "hello there")[:75]
    trace = ingested(f"{whole}\n{cut}\n".encode(), name="vllm.log")
    assert len(rows(trace)) == 1 and reasons(trace) == {"invalid_literal": 1}


def test_vllm_in_a_collectors_envelope(ingested: Ingested) -> None:
    """docker's json-file gives the time to the ns, so the arrival has no assumed year or zone."""
    log = jsonl([
        {"log": f"{line}\n", "stream": "stderr", "time": f"2026-08-21T10:00:0{i}.123456789Z"}
        for i, line in enumerate([received("chatcmpl-1", "a"), f"{AT}Added request chatcmpl-1."])
    ])  # fmt: skip
    (row,) = rows(ingested(log, name="c.log"))
    assert row["arrival_ts"] == datetime(2026, 8, 21, 10, 0, 0, 123456, tzinfo=UTC)
    assert row["quality"] == [] and row["arrival_resolution_us"] is None


def test_vllm_colours_are_taken_off() -> None:
    """A terminal's colour codes around the level change nothing."""
    line = received("chatcmpl-1", "a")
    coloured = "\x1b[1;36m(APIServer pid=9)\x1b[0;0m " + line.replace("INFO", "\x1b[32mINFO\x1b[0m")
    assert requests(vllm_log, coloured)[0].prompt_text == "a"


# -- SGLang ------------------------------------------------------------------------------------------------


def test_sglang_text_and_json_say_the_same(ingested: Ingested) -> None:
    """The captured server wrote the same calls in both forms: the rows differ in ids, times and what the cache held."""
    own = {"row_id", "source_file", "source_row", "request_id", "arrival_ts", "first_token_ts", "end_ts", "queue_us", "ttft_us",
           "e2e_us", "cached_input_tokens", "arrival_offset_us", "arrival_resolution_us", "status", "http_status"}  # fmt: skip
    text, json_ = (rows(ingested(SAMPLES / name)) for name in ("sglang-log.log", "sglang-log.json.log"))
    said = [[{k: v for k, v in row.items() if k not in own} for row in side] for side in (text, json_)]
    assert len(text) == 4
    assert sorted(said[0], key=str) == sorted(said[1], key=str)


def test_sglang_metrics_and_log_agree(ingested: Ingested) -> None:
    """The metrics file tells the same times and counts of the same requests as the log."""
    by_log = {row["request_id"]: row for row in rows(ingested(SAMPLES / "sglang-log.json.log"))}
    metrics = rows(ingested(SAMPLES / "sglang-metrics.jsonl"))
    assert len(metrics) == 3
    for row in metrics:
        for name in (
            "arrival_ts",
            "first_token_ts",
            "end_ts",
            "e2e_us",
            "queue_us",
            "input_tokens",
            "cached_input_tokens",
        ):
            assert row[name] == by_log[row["request_id"]][name]


def finished(rid: str, obj: str, meta: str, at: str = "12:00:01") -> str:
    """A `Finish` line of the text form."""
    return f"[2026-08-21 {at}] Finish: obj=GenerateReqInput(rid='{rid}', {obj}), out={{'text': 'x', 'meta_info': {meta}}}"


def test_sglang_lines_without_a_time(ingested: Ingested) -> None:
    """Older builds print no time before an event: a collector's stamp is it."""
    line = "Receive: obj=GenerateReqInput(rid='r', text='hello', stream=False)"
    (row,) = rows(ingested(f"2026-08-21T10:00:00.250Z {line}\n".encode(), name="s.log"))
    assert (row["arrival_ts"], row["status"]) == (
        datetime(2026, 8, 21, 10, 0, 0, 250_000, tzinfo=UTC),
        "incomplete",
    )


def test_sglang_cut_prompts() -> None:
    """Level 2 keeps two halves: such a text is truncated, such ids are dropped; ids that are whole stand for the prompt."""
    text = f"{'a' * 1024!r} ... {'b' * 1024!r}"
    ids = f"{[1] * 1024} ... {[2] * 1024}"
    for obj, state, kept in (
        (f"text={text}, input_ids={ids}", "truncated", None),
        (f"text=None, input_ids={ids}", "truncated", None),
        (f"text={text}, input_ids=[1, 2, 3]", "complete", [1, 2, 3]),
        ("text='whole', input_ids=None", "complete", None),
        ("stream=True", "absent", None),
    ):
        (q,) = requests(sglang_log, finished("r", obj, "{'prompt_tokens': 3}"))
        assert (q.content_state, q.input_ids) == (state, kept), obj


def test_sglang_whole_messages_make_up_for_a_cut_prompt() -> None:
    """The text form does not cut inside messages: they are the prompt where text and ids were cut."""
    said = "order 7. " * 400
    text = f"{said[:1024]!r} ... {said[-1024:]!r}"
    body = {"model": "m", "messages": [{"role": "user", "content": said}], "max_tokens": 9, "stream": True}
    log = [
        f"[2026-08-21 12:00:00] Receive OpenAI: obj={body!r}",
        "[2026-08-21 12:00:00] Receive: obj=GenerateReqInput(rid='r', text=None, sampling_params={'max_new_tokens': 9}, stream=True)",
        finished(
            "r",
            f"text={text}, sampling_params={{'max_new_tokens': 9}}, stream=True",
            "{'prompt_tokens': 999}",
        ),
    ]
    (q,) = requests(sglang_log, log)
    assert (q.content_state, q.prompt_text, q.operation) == ("complete", None, "chat")
    assert json.loads(q.messages_json or "")[0]["content"] == said


def test_sglang_zone_is_learnt_from_requests() -> None:
    """Lines are in the server's zone; a finished request, which tells its end in UTC, gives the zone to those without an end."""
    meta = f"{{'prompt_tokens': 3, 'request_received_ts': {us('2026-08-21T10:00:00') / 1e6}, 'request_finished_ts': {us('2026-08-21T10:00:01') / 1e6}}}"
    log = [
        finished("r", "text='a'", meta),
        "[2026-08-21 12:00:05] Receive: obj=GenerateReqInput(rid='s', text='b', stream=False)",
    ]
    first, second = requests(sglang_log, log)
    assert (first.arrival_us, first.arrival_quality) == (us("2026-08-21T10:00:00"), "measured")
    assert (second.arrival_us, second.arrival_quality, second.status) == (
        us("2026-08-21T10:00:05"),
        "log_time",
        "incomplete",
    )
    assert "tz_assumed" not in second.quality
    (alone,) = requests(sglang_log, log[1])
    assert "tz_assumed" in alone.quality and alone.arrival_us == us("2026-08-21T12:00:05")


def test_sglang_batch_is_as_many_requests() -> None:
    """One line receives a batch, each of it ends in a line of its own; those that do not are given out with the first."""
    batch = "[2026-08-21 12:00:00] Receive: obj=GenerateReqInput(rid=['a', 'b', 'c'], text=['pa', 'pb', 'pc'], stream=False)"
    got = read(sglang_log, [batch, finished("b", "text='pb'", "{'prompt_tokens': 1}")])
    assert isinstance(got[0], list) and [(q.request_id, q.prompt_text, q.status) for q in got[0]] == [
        ("a", "pa", "incomplete"), ("c", "pc", "incomplete"),
    ]  # fmt: skip
    assert (got[1].request_id, got[1].status) == ("b", "ok")


def test_sglang_refusal_is_that_of_the_only_open_request() -> None:
    """An access line names no request: with one open its status is that one's, with two it is nobody's."""
    one = "[2026-08-21 12:00:00] Receive: obj=GenerateReqInput(rid='a', text='pa', stream=False)"
    two = one.replace("'a'", "'b'")
    refused = (
        '[2026-08-21 12:00:00] INFO:     10.0.0.7:5 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request'
    )
    assert [q.status for q in requests(sglang_log, [one, refused])] == ["rejected"]
    assert [q.status for q in requests(sglang_log, [one, two, refused])] == ["incomplete", "incomplete"]


def test_sglang_pickles_stay_shut(tmp_path: Path) -> None:
    """A dump of requests is a pickle, which is named and never opened."""
    import pickle

    from traceprof.errors import TraceprofError

    path = tmp_path / "dump.pkl"
    path.write_bytes(pickle.dumps({"requests": []}))
    with pytest.raises(TraceprofError, match="pickle"):
        ingest([path], tmp_path / "t")


def test_sglang_native_bodies_in_a_wrapper() -> None:
    """A native generate body with its answer is read by its dialect, times of the engine included."""
    asked = {"text": "Hello", "sampling_params": {"max_new_tokens": 5, "temperature": 0.5}, "stream": True}
    meta = {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "cached_tokens": 3,
        "finish_reason": {"type": "stop"},
        "e2e_latency": 0.25,
    }
    chunks = [
        {"text": "H", "meta_info": {"prompt_tokens": 4}},
        {"text": "Hi!", "output_ids": [1, 2], "meta_info": meta},
    ]
    stream = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
    q = pairs.read({"ts": "2026-08-21T12:00:00Z", "request": asked, "response": stream})
    assert isinstance(q, Request) and bodies.of_request(asked) is sglang
    assert (q.prompt_text, q.output_json, q.input_tokens, q.cached_input_tokens, q.e2e_us, q.finish_reason) == (
        "Hello", b'{"role":"assistant","content":"Hi!"}', 4, 3, 250_000, "stop",
    )  # fmt: skip


# -- TGI ---------------------------------------------------------------------------------------------------


def test_tgi_answers_in_every_shape() -> None:
    """An object, a list of one, and a stream are the same answer; a cut stream is incomplete, without special tokens."""
    asked = {"inputs": "p", "parameters": {"max_new_tokens": 4}}
    tokens = [
        {"token": {"id": i, "text": t, "special": s}}
        for i, t, s in ((5, "Hi", False), (6, " you", False), (2, "</s>", True))
    ]
    last = {
        **tokens[2],
        "generated_text": "Hi you",
        "details": {"finish_reason": "eos_token", "generated_tokens": 3},
    }
    whole = {
        "generated_text": "Hi you",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 3,
            "tokens": [t["token"] for t in tokens],
        },
    }
    streamed = "".join(f"data:{json.dumps(c)}\n\n" for c in (*tokens[:2], last))
    for answer in (whole, [whole], json.dumps([whole]), streamed, [*tokens[:2], last]):
        q = pairs.read({"request": asked, "response": answer})
        assert isinstance(q, Request)
        assert (q.output_json, q.finish_reason, q.output_tokens, q.output_ids, q.status) == (
            b'{"role":"assistant","content":"Hi you"}', "stop", 3, [5, 6, 2], "ok",
        )  # fmt: skip
    q = pairs.read({"request": asked, "response": tokens})
    assert isinstance(q, Request)
    assert (q.status, q.output_json) == ("incomplete", b'{"role":"assistant","content":"Hi you"}')


def test_tgi_inputs_alone_may_be_an_embedding() -> None:
    """A body of inputs without parameters of a generation is not taken for a prompt."""
    assert bodies.of_request({"inputs": "x"}) is None
    assert bodies.of_request({"inputs": "x", "parameters": {"normalize": True}}) is None
    assert bodies.of_request({"inputs": "x", "stream": False}) is bodies.tgi


def test_tgi_text_in_parameters_is_no_parameter() -> None:
    """A stop sequence may look like the Debug text around it."""
    row = json.loads((SAMPLES / "tgi.jsonl").read_text("utf-8").splitlines()[2])
    q = tgi.read(row)
    assert isinstance(q, Request) and q.params is not None
    assert '"### temperature: Some(9)"' in row["span"]["parameters"]
    assert q.params == {"temperature": 0.7, "top_p": 0.95, "top_k": 40, "stop_count": 2}


# -- llama.cpp ---------------------------------------------------------------------------------------------


def test_llamacpp_prompts_include_the_cached_part(ingested: Ingested) -> None:
    """The captured server took four prompts of 38, 60, 38 and 6 tokens, of which it evaluated 38, 22, 1 and 6."""
    found = [
        (r["input_tokens"], r["cached_input_tokens"]) for r in rows(ingested(SAMPLES / "llamacpp-log.log"))
    ]
    assert found[:4] == [(38, 0), (60, 38), (38, 37), (6, 0)]
    assert found[4] == (None, None)  # its context was cut: nothing tells its length


def test_llamacpp_a_stamp_makes_times_absolute() -> None:
    """Times count from the start of the process, a collector's stamp from 1970; without either there is only the order."""
    line = "slot launch_slot_: id  0 | task 3 | processing task"
    stamped, own, bare = (
        requests(llamacpp_log, prefix + line)[0]
        for prefix in ("2026-08-21T10:00:00.5Z ", "1.02.003.004 I ", "")
    )
    assert (stamped.clock, stamped.arrival_us) == ("absolute", us("2026-08-21T10:00:00.5"))
    assert (own.clock, own.arrival_us) == ("relative", 62_003_004)
    assert (bare.clock, bare.arrival_us, bare.status) == ("order_only", None, "incomplete")


def test_llamacpp_a_restarted_process_goes_on_behind_the_last() -> None:
    """A log that another process writes on: its times follow those before, and the rows say so."""
    line = "I slot launch_slot_: id  0 | task {} | processing task"
    first, second = requests(llamacpp_log, f"0.50.000.000 {line.format(1)}\n0.02.000.000 {line.format(0)}")
    assert (first.arrival_us, second.arrival_us) == (50_000_000, 52_000_000)
    assert second.quality == ["clock_restarted"] and first.quality == []


# -- Ollama ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body", "operation"),
    [
        ("api_chat", {"model": "m", "messages": [{"role": "user", "content": "q"}]}, "chat"),
        ("v1_chat_completions", {"model": "m", "messages": [{"role": "user", "content": "q"}]}, "chat"),
        ("api_generate", {"model": "m", "prompt": "q"}, "chat"),
        ("v1_completions", {"model": "m", "prompt": "q"}, "text"),
        ("v1_responses", {"model": "m", "input": "q", "instructions": "i"}, "responses"),
        (
            "v1_messages",
            {"model": "m", "max_tokens": 9, "system": "s", "messages": [{"role": "user", "content": "q"}]},
            "chat",
        ),
    ],
)
def test_ollama_files_tell_when_and_what_by_their_name(
    route: str, body: Any, operation: str, ingested: Ingested
) -> None:
    """A body file of any API is Ollama's by its name, which holds the arrival in ns of UTC and a number."""
    name = f"20260821T100000.123456789Z-000007_{route}_body.json"
    trace = ingested(json.dumps(body).encode(), name=name)
    (row,) = rows(trace)
    assert trace.manifest["sources"][0]["format"] == "ollama"
    assert row["arrival_ts"] == datetime(2026, 8, 21, 10, 0, 0, 123456, tzinfo=UTC)
    assert (row["request_id"], row["operation"], row["arrival_quality"]) == (
        "20260821T100000.123456789Z-000007", operation, "measured",
    )  # fmt: skip
    assert row["stream"] is (
        True if route.startswith("api") else None
    )  # the native API streams unless told not to


def test_ollama_folder_as_it_is_written(tmp_path: Path) -> None:
    """The folder holds a script beside each body, which is no log; a body without a prompt only loads the model."""
    folder = tmp_path / "ollama-request-logs-1"
    folder.mkdir()
    for i, body in enumerate(
        [
            {"model": "m", "prompt": "q"},
            {"model": "m"},
            {"model": "m", "messages": [{"role": "user", "content": "p"}]},
        ]
    ):
        name = f"20260821T10000{i}.000000000Z-00000{i}_api_{'chat' if i == 2 else 'generate'}"
        (folder / f"{name}_body.json").write_text(json.dumps(body))
        (folder / f"{name}_request.sh").write_text(
            '#!/bin/sh\ncurl --request POST --url "http://h/api/chat"\n'
        )
    trace = ingest([folder], tmp_path / "t")
    assert trace.manifest["formats"] == {"ollama": 3}
    assert [r["request_id"] for r in rows(trace)] == [
        "20260821T100000.000000000Z-000000",
        "20260821T100002.000000000Z-000002",
    ]
    assert trace.manifest["skipped_by_reason"] == {"model_load": 1}


def test_ollama_durations() -> None:
    """Go's durations are read to the us; what is none is told."""
    said = {
        "1.562s": 1_562_000,
        "812.3ms": 812_300,
        "1m2s": 62_000_000,
        "23.5µs": 24,
        "1h0m1s": 3_601_000_000,
        "5": None,
        "s": None,
    }
    assert {text: ollama_log.duration_us(text) for text in said} == said


def test_ollama_lines_without_a_zone_say_so() -> None:
    """gin's time is local: the zone is that of the server's own lines, else it is assumed."""
    gin = '[GIN] 2026/08/21 - 12:00:01 | 200 |          1s |       10.0.0.7 | POST     "/api/chat"'
    slog = 'time=2026-08-21T12:00:00.001+02:00 level=INFO source=routes.go:1 msg="x"'
    (alone,), (zoned,) = requests(ollama_log, gin), requests(ollama_log, [slog, gin])
    assert (alone.arrival_us, "tz_assumed" in alone.quality) == (us("2026-08-21T12:00:00"), True)
    assert (zoned.arrival_us, "tz_assumed" in zoned.quality) == (us("2026-08-21T10:00:00"), False)


def test_ollama_zone_is_that_of_the_line_before() -> None:
    """The server's other lines tell the zone, which changes in spring and autumn: each access line is in the last one told."""
    access = '[GIN] 2026/10/25 - {} | 200 | 1s | 127.0.0.1 | POST     "/api/chat"'
    log = [
        "time=2026-10-25T02:30:00.000+02:00 level=INFO source=a.go:1 msg=x",
        access.format("02:30:01"),
        "time=2026-10-25T02:30:00.000+01:00 level=INFO source=a.go:1 msg=x",
        access.format("02:30:01"),
    ]
    first, second = requests(ollama_log, log)
    assert first.end_us == us("2026-10-25T00:30:01")
    assert second.end_us == us("2026-10-25T01:30:01")


def test_ollama_old_answers_do_not_say_why_they_ended() -> None:
    """A stream whose last line says only that it is done is whole."""
    lines = [
        {"message": {"role": "assistant", "content": c}, "done": d, "created_at": "x"}
        for c, d in (("a", False), ("b", True))
    ]
    q = pairs.read({"request": {"model": "m", "messages": [], "options": {"top_k": 1}}, "response": lines})
    assert isinstance(q, Request) and (q.status, q.finish_reason, q.stream) == ("ok", "other", True)


# -- Dynamo ------------------------------------------------------------------------------------------------


def end(name: str, **request: Any) -> dict[str, Any]:
    """A bare request_end event."""
    return {"schema": "dynamo.request.trace.v1", "event_type": "request_end", "event_time_unix_ms": 1_787_313_601_000,
            "request": {"request_id": name, "model": "m", "request_received_ms": 1_787_313_600_000, **request}}  # fmt: skip


def test_dynamo_hashes_keep_all_64_bits(ingested: Ingested) -> None:
    """Block hashes above 2^63 survive, which a parser of doubles would change."""
    trace = ingested(SAMPLES / "dynamo.jsonl")
    assert rows(trace, "tokens")[0]["block_hashes"] == [
        18010294645152674689,
        2519488175512291897,
        6684987549388306385,
    ]


def test_dynamo_hashes_that_do_not_fit_are_left_out() -> None:
    """As many hashes as blocks, the last partial one included; else the row keeps its lengths and says so."""
    replay = {"trace_block_size": 16, "input_length": 33, "input_sequence_hashes": [1, 2]}
    (q,) = requests(dynamo, [end("a", input_tokens=33, replay=replay)])
    assert (q.block_hashes, q.input_tokens, q.content_level, q.quality) == (
        None,
        33,
        "lengths",
        ["bad_block_hashes"],
    )


def test_dynamo_joins_in_any_order() -> None:
    """A payload may come before or after its end; the request is the end's row, and a payload alone is one too."""
    payload = {
        "schema": "dynamo.request.trace.v1", "event_type": "request_payload", "event_time_unix_ms": 1_787_313_600_000,
        "payload": {"request_id": "a", "request": {"model": "m", "messages": [{"role": "user", "content": "q"}]}, "payload_complete": False},
    }  # fmt: skip
    measured = end("a", input_tokens=9, finish_reason_metadata={"finish_reason": "stop"})
    for log in ([payload, measured], [measured, payload]):
        got = read(dynamo, log)
        assert got[log.index(payload)] == Skip("joined_to_its_request")
        q = got[log.index(measured)]
        assert (q.input_tokens, json.loads(q.messages_json), q.status) == (
            9,
            [{"role": "user", "content": "q"}],
            "ok",
        )
    (alone,) = requests(dynamo, [payload])
    assert (alone.status, alone.arrival_us) == ("incomplete", us("2026-08-21T12:00:00"))


def test_dynamo_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace without payloads is given out as it comes, but for the rows whose payload may yet come."""
    monkeypatch.setattr(dynamo, "_HELD_ROWS", 3)
    taken: list[int] = []

    def records() -> Any:
        for i in range(20):
            taken.append(i)
            yield Record("a", i, b"x", end(f"r{i}"))

    for record, _ in dynamo.read_all(records()):
        assert taken[-1] - record.row <= 3


def test_dynamo_log_leaves_other_loggers_alone(ingested: Ingested) -> None:
    """Rows with the four names of every JSON logger are Dynamo's only where a part of Dynamo's wrote some of them."""
    row = {"time": "2026-08-21T12:00:00Z", "level": "INFO", "target": "proxy::log", "message": "call"}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    (q,) = rows(ingested([{**row, "request": body}]))
    assert q["source_format"] == "openai"
    trace = ingested([row, *sample_records("dynamo-log")])
    assert trace.manifest["formats"].keys() == {"dynamo-log"} and not reasons(trace)


def test_no_line_is_unreadable() -> None:
    """Odd lines of each text log are skipped or rejected by name, never by an exception."""
    odd = ["", "Received request : prompt: ", f"{AT}Received request a: prompt: 1, params: [], prompt_token_ids: x", '[GIN] 2026/13/41 - 25:00:00 | 200 | 1s | x | POST "/api/chat"',
           "[2026-99-99 99:99:99] Finish: obj=GenerateReqInput(rid='a'), out={}", "[2026-08-21 12:00:00] Receive: obj=None",
           '{"timestamp": 1, "event": "request.finished", "obj": {}, "out": {"meta_info": {"finish_reason": 3, "e2e_latency": "x"}}}',
           "slot print_timing: id  9999999999 | task 1 | eval time = .. ms / 1 tokens", "Request a JSON body: {", "Generated response x"]  # fmt: skip
    for module in (vllm_log, sglang_log, llamacpp_log, ollama_log):
        for result in read(module, odd):
            for one in result if isinstance(result, list) else [result]:
                assert not isinstance(one, BadRecord) or one.reason != "unreadable", one
