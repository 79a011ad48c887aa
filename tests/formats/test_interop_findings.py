"""What the servers of tests/interop were seen to log, in as few lines: each was read wrongly once."""

from __future__ import annotations

import json
from typing import Any

from conftest import rows, sample_records

from traceprof.formats import litellm, litellm_spendlogs, llamacpp_log, vllm_log
from traceprof.formats.base import Request, Skip
from traceprof.ingest import Record


def read(module: Any, *lines: str) -> list[Any]:
    """What each line of a log becomes, in the order of the log."""
    records = [Record("a.log", i, line.encode(), line) for i, line in enumerate(lines)]
    found = {record.row: result for record, result in module.read_all(records)}
    return [found[i] for i in range(len(lines))]


# -- llama.cpp ---------------------------------------------------------------------------------------------

SLOT = "0.00.{:03d}.000 I slot {}: id  {} | task {} | {}"
TIMED = (
    "prompt eval time =       0.71 ms /    10 tokens (    0.07 ms per token, 14084.51 tokens per second)",
    "       eval time =       2.54 ms /     8 tokens (    0.36 ms per token,  2758.08 tokens per second)",
    "      total time =       3.25 ms /    18 tokens",
)


def test_llamacpp_answers_to_one_prompt_are_one_request() -> None:
    """n=2: the child is taken before its parent, evaluates nothing of its own, and is no request."""
    log = [
        SLOT.format(1, "launch_slot_", 1, 48, "processing task, is_child = 1"),
        SLOT.format(2, "launch_slot_", 0, 47, "processing task, is_child = 0"),
    ]
    for slot, task in ((0, 47), (1, 48)):
        log += [SLOT.format(5, "print_timing", slot, task, line) for line in TIMED]
        log.append(SLOT.format(6, "release", slot, task, "stop processing: n_tokens = 22, truncated = 0"))
    found = read(llamacpp_log, *log)
    (request,) = (r for r in found if isinstance(r, Request))
    assert found[1] is request and found[0] == Skip("joined_to_its_request")
    assert (request.input_tokens, request.cached_input_tokens, request.output_tokens) == (15, 5, 8)


def test_llamacpp_a_prompt_that_is_too_long_is_rejected() -> None:
    """The server says how long it was; whether it tells of the cancelled task before or after the release does not matter."""
    begun = SLOT.format(1, "launch_slot_", 0, 47, "processing task, is_child = 0")
    error = "0.00.002.000 E srv    send_error: task id = 47, error: request (12011 tokens) exceeds the available context size (4096 tokens), try increasing it"
    cancel = "0.00.003.000 W srv          stop: cancel task, id_task = 47"
    release = SLOT.format(3, "release", 0, 47, "stop processing: n_tokens = 19, truncated = 0")
    for end in ([cancel, release], [release, cancel]):
        request = read(llamacpp_log, begun, error, *end)[0]
        assert (request.status, request.input_tokens, request.output_tokens) == ("rejected", 12011, None)
    failed = read(llamacpp_log, begun, error.partition("request")[0] + "context is gone", release)[0]
    assert (failed.status, failed.input_tokens) == ("error", None)


# -- vLLM --------------------------------------------------------------------------------------------------

AT = "(APIServer pid=7) DEBUG 11-24 07:51:06 [entrypoints/.../utils/request_logger.py:55] "


def test_vllm_tokenize_is_no_request() -> None:
    """A call of /tokenize logs a body without an id, a prompt, and no parameters."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "q"}]}
    found = read(
        vllm_log,
        f"{AT}Request 9a JSON body: {json.dumps(chat)}",
        f'{AT}Request N/A JSON body: {{"model":"tiny","prompt":"def"}}',
        f"{AT}Request tokenize-1 details: prompt: 'def', prompt_token_ids: [444], prompt_embeds shape: None.",
        f"{AT}Received request tokenize-1: params: None, lora_request: None.",
        f"{AT}Request chatcmpl-9a details: prompt: 'q', prompt_token_ids: [5, 6], prompt_embeds shape: None.",
    )
    assert found[1:4] == [Skip("tokenization")] * 3
    (request,) = (r for r in found if isinstance(r, Request))
    assert (request.request_id, request.input_ids, request.model_requested) == ("chatcmpl-9a", [5, 6], "tiny")


# -- LiteLLM -----------------------------------------------------------------------------------------------


def test_litellm_names_the_model_that_answered() -> None:
    """The proxy writes its own alias over the name in the answer, before or after it is logged."""
    payload, row = sample_records("litellm")[0], sample_records("litellm-spendlogs")[0]
    for name in ("tiny", "support-chat"):
        request = litellm.read({**payload, "response": {**payload["response"], "model": name}})
        assert isinstance(request, Request) and request.model_served == "hosted_vllm/tiny"
        answer = {**json.loads(row["response"]), "model": name}
        request = litellm_spendlogs.read({**row, "response": json.dumps(answer)})
        assert isinstance(request, Request) and request.model_served == row["model"]


def test_spendlogs_failures_have_no_call_type(ingested: Any) -> None:
    """A failed request is told from the body that is kept; where none is, by its time of logging alone."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "metadata": {"litellm_received_at": "2026-11-24 06:58:25.309334"},
    }
    info = {"error_information": {"error_code": "400", "error_class": "ContextWindowExceededError"}}
    failed = {
        **sample_records("litellm-spendlogs")[0],
        "request_id": "a",
        "call_type": "",
        "status": "failure",
        "startTime": "2026-11-24T06:58:25.389625+00:00",
        "endTime": "2026-11-24T06:58:25.389630+00:00",
        "completionStartTime": "2026-11-24 06:58:25.389630+00:00",
        "metadata": json.dumps(info),
        "response": "{}",
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "proxy_server_request": json.dumps(body),
    }
    bare = {**failed, "request_id": "b", "proxy_server_request": "{}"}
    embedding = {
        **failed,
        "request_id": "c",
        "proxy_server_request": '{"model":"text-embedding-3","input":"a"}',
    }
    trace = ingested([failed, bare, embedding])
    first, second = rows(trace)
    assert trace.manifest["skipped_by_reason"] == {"not_a_generation": 1}
    assert (first["request_id"], first["operation"], first["status"]) == ("a", "chat", "rejected")
    assert (first["http_status"], first["error_type"]) == (400, "ContextWindowExceededError")
    assert first["input_tokens"] is None and first["arrival_quality"] == "measured"
    assert first["arrival_ts"].isoformat() == "2026-11-24T06:58:25.309334+00:00"
    assert (second["request_id"], second["operation"], second["arrival_quality"]) == (
        "b",
        "other",
        "log_time",
    )
