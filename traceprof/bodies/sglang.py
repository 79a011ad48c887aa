"""SGLang's native generate bodies (`text` or `input_ids`, `sampling_params`) and answers with `meta_info`, also as it logs them.

Its log may cut a text or a list in the middle: such a prompt is marked, and cut ids are dropped. `prompt_tokens` include the cached
ones; times are s, on the server's clock. Source: sgl-project/sglang 01bb9120, io_struct.py, request_logger.py; captures of 0.5.23.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import literals, openai
from traceprof.formats.base import (
    BadRecord,
    Request,
    attempt,
    count,
    dumps,
    elapsed,
    epoch_us,
    finish,
    first_of,
    http_code,
    messages,
    status_of_http,
    text,
)

_HALF = 1024  # characters, or elements, that the log keeps of each end


def is_request(body: dict[str, Any]) -> bool:
    """A prompt as text or ids, with sampling parameters."""
    return "sampling_params" in body and ("text" in body or "input_ids" in body) and "messages" not in body


def is_response(body: dict[str, Any]) -> bool:
    """An answer with what was measured."""
    return isinstance(body.get("meta_info"), dict) and ("text" in body or "output_ids" in body)


is_chunk = is_response  # each holds all of the answer so far


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The last chunk, which is the whole answer."""
    return next((c for c in reversed(chunks) if is_response(c)), {})


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill prompt, ids, parameters and session from a GenerateReqInput; what was cut of them is noted."""
    said, text_cut = words(body.get("text"))
    ids, ids_cut = _ids(body.get("input_ids"))
    out.operation, out.prompt_text, out.input_ids = "text", said, ids
    if ids is not None and text_cut:
        out.prompt_text = None
        out.quality.append("prompt_text_truncated")
    elif ids is None and (text_cut or (ids_cut and said is None)):
        out.content_state = "truncated"
    elif ids is None and said is None:
        out.content_level, out.content_state = "lengths", "absent"
    out.stream = body["stream"] if isinstance(body.get("stream"), bool) else None
    given = body.get("sampling_params")
    if isinstance(given, dict):
        out.params = openai.params({**given, "seed": first_of(given, ("sampling_seed", "seed"))})
        limit = given.get("max_new_tokens")
        out.max_output_tokens = count(limit, "max_new_tokens", out.quality)
    _session(out, body)
    out.cache_salt = text(first_of(body, ("cache_salt", "extra_key")))
    out.model_requested = text(body.get("lora_path"))
    media = [
        {"type": kind, "data": one}
        for kind in ("image", "video", "audio")
        for one in listed(body.get(f"{kind}_data"))
    ]
    if media:
        messages([{"role": "user", "content": media}], out)  # notes them


def _session(out: Request, body: dict[str, Any]) -> None:
    nested = body.get("session_params")
    name = text(first_of(body, ("session_id", "conversation_id")))
    if name is None and isinstance(nested, dict):
        name = text(nested.get("id"))
    if name is not None:
        out.session_id, out.session_kind = name, "explicit"
    elif text(body.get("routing_key")) is not None:
        out.session_id, out.session_kind = text(body["routing_key"]), "affinity_key"


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill output, counts, times and outcome from an answer."""
    said, cut = words(body.get("text"))
    if cut:
        out.quality.append("output_truncated")
    elif said is not None:
        out.output_json = dumps({"role": "assistant", "content": said})
    out.output_ids = _ids(body.get("output_ids"))[0]
    if out.output_json is not None or out.output_ids is not None:
        out.status = "ok"
    if isinstance(body.get("meta_info"), dict):
        measured(out, body["meta_info"])


_COUNTS = {
    "input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "cached_input_tokens": "cached_tokens",
    "reasoning_tokens": "reasoning_tokens",
}  # fmt: skip
_DURATIONS = {"queue_us": "queue_time", "e2e_us": "e2e_latency", "ttft_us": "first_token_latency"}


def measured(out: Request, meta: dict[str, Any]) -> None:
    """Fill counts, times and outcome from a `meta_info`."""
    for name, key in _COUNTS.items():
        setattr(out, name, count(meta.get(key), key, out.quality))
    if out.input_tokens is not None:
        out.tokens_source = "usage"
    if out.cached_input_tokens is not None and out.cached_input_tokens > (out.input_tokens or 0):
        out.cached_input_tokens = None
        out.quality.append("bad_cached_tokens")
    for name, key in _DURATIONS.items():
        setattr(out, name, elapsed(meta.get(key), key, 1e6, out.quality))
    began = _moment(meta, "request_received_ts", out)
    if began is not None and out.arrival_us is None:
        out.clock, out.arrival_us, out.arrival_quality = "absolute", began, "measured"
        out.end_us = _moment(meta, "request_finished_ts", out)
        if out.ttft_us is not None:
            out.first_token_us = began + out.ttft_us
        elif out.stream:  # of an answer in one piece this is its end
            out.first_token_us = _moment(meta, "response_sent_to_client_ts", out)
    why = meta.get("finish_reason")
    kind = why.get("type") if isinstance(why, dict) else why
    out.finish_reason = finish(kind) if isinstance(kind, str) else None
    if kind == "abort":
        out.http_status = http_code(why.get("status_code")) if isinstance(why, dict) else None
        out.status = status_of_http(out.http_status) or "cancelled"


def _moment(meta: dict[str, Any], key: str, out: Request) -> int | None:
    """A time; a flag where it is none."""
    found = None if meta.get(key) is None else attempt(epoch_us, meta[key], key)
    if isinstance(found, BadRecord):
        out.quality.append(f"bad_{key}")
        return None
    return found


# -- what a log cut -----------------------------------------------------------------------------------------


def words(value: Any) -> tuple[str | None, bool]:
    """(a text, whether it was cut in its middle)."""
    if isinstance(value, literals.Cut):
        return f"{value.head} ... {value.tail}", True
    return (value or None, _halved(value)) if isinstance(value, str) else (None, False)


def cut(value: Any) -> bool:
    """Whether anything in a value was cut in its middle."""
    if isinstance(value, dict):
        return any(map(cut, value.values()))
    if isinstance(value, list):
        return any(one == "..." or cut(one) for one in value)
    return isinstance(value, literals.Cut) or (isinstance(value, str) and _halved(value))


def plain(value: Any) -> Any:
    """A body with a text or list for each that was cut."""
    if isinstance(value, literals.Cut):
        return words(value)[0] if isinstance(value.head, str) else [*listed(value.head), *listed(value.tail)]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(one) for one in value if one != "..."] if isinstance(value, list) else value


def listed(value: Any) -> list[Any]:
    """A value as a list: none of null, a list as it is."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _halved(said: str) -> bool:
    """Whether a text is two halves of what the log keeps, and dots between them."""
    return len(said) in (2 * _HALF + 3, 2 * _HALF + 5) and said[_HALF:-_HALF].strip() == "..."


def _ids(value: Any) -> tuple[list[int] | None, bool]:
    """(token ids, whether there are some that were cut)."""
    if openai.is_ids(value) and value:
        return value, False
    return None, isinstance(value, (literals.Cut, str)) or (isinstance(value, list) and "..." in value)
