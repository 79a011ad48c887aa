"""OpenRouter: the activity export (CSV), and answers of /api/v1/generation (JSON).

Times are UTC, those of the CSV without saying so. The CSV counts ms to the first token and of the whole generation. The API has
`latency` and `generation_time`, of which OpenRouter's pages do not say where they begin: they are kept in extra_json. Its
`native_tokens_*` are the model's own, `tokens_*` are of another tokenizer. No prompts. The rows of /api/v1/activity are sums of a day.
Source: OpenRouter docs; header of a real export.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    Skip,
    count,
    elapsed,
    finish,
    lasted,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS
summary = "OpenRouter activity export (CSV) and generation records (JSON, JSONL)"


def detect(record: dict[str, Any]) -> bool:
    """The header of the export, a generation record, or a row of daily sums."""
    return (
        {"generation_id", "created_at", "model_permaslug"} <= record.keys()
        or {"native_tokens_prompt", "generation_time"} <= _generation(record).keys()
        or _is_sum(record)
    )


def _generation(record: dict[str, Any]) -> dict[str, Any]:
    data = record.get("data")
    return data if isinstance(data, dict) else record


def _is_sum(record: dict[str, Any]) -> bool:
    return {"date", "requests", "model_permaslug", "prompt_tokens"} <= record.keys()


def read(record: dict[str, Any]) -> Request | Skip:
    """One request, known by its lengths."""
    if _is_sum(record):
        said = "a sum of a day's requests (/api/v1/activity): export the activity as CSV, which has one row a request"
        raise BadRecord("unsupported", said)
    exported = "generation_id" in record
    row = record if exported else _generation(record)
    kind = row.get("api_type")
    if isinstance(kind, str) and kind not in ("", "completions", "chat", "responses", "messages"):
        return Skip({"embeddings": "embedding", "tts": "audio", "stt": "audio"}.get(kind, "not_a_generation"))
    if row.get("created_at") in (None, ""):
        raise BadRecord("missing_field", "no created_at")
    out = Request(content_level="lengths", content_state="absent", clock="absolute", arrival_quality="measured")  # fmt: skip
    out.arrival_us = parse_time(row["created_at"], "created_at")[0]
    out.provider = text(row.get("provider_name"))
    out.stream, cancelled = _flag(row.get("streamed")), _flag(row.get("cancelled"))
    out.user_id = text(row.get("user")) or text(row.get("external_user"))
    if exported:
        _exported(out, row)
    else:
        _fetched(out, row)
    if "error" in (row.get("finish_reason_normalized"), row.get("finish_reason")):
        out.status, out.finish_reason = "error", None
    elif cancelled:
        out.status = "cancelled"
    elif out.finish_reason is not None or out.output_tokens is not None:
        out.status = "ok"
    return out


def _exported(out: Request, row: dict[str, Any]) -> None:
    out.request_id = text(row.get("generation_id"))
    out.model_served = text(row.get("model_permaslug"))
    out.tenant_id, out.app = text(row.get("api_key_name")), text(row.get("app_name"))
    out.finish_reason = finish(row.get("finish_reason_normalized"))
    whole = elapsed(row.get("generation_time_ms"), "generation_time_ms", 1e3, out.quality)
    first = elapsed(row.get("time_to_first_token_ms"), "time_to_first_token_ms", 1e3, out.quality)
    lasted(out, whole, first if out.stream else None)
    out.extra_json = leftovers(row, ("cost_total", "variant", "finish_reason_raw"))
    _counts(out, row, "tokens_")


def _fetched(out: Request, row: dict[str, Any]) -> None:
    out.request_id, out.provider_request_id = text(row.get("id")), text(row.get("upstream_id"))
    out.session_id = text(row.get("session_id"))
    out.session_kind = "explicit" if out.session_id else None
    out.model_requested = text(row.get("model"))
    out.finish_reason = finish(row.get("finish_reason"))
    out.extra_json = leftovers(row, ("latency", "generation_time", "moderation_latency", "total_cost", "native_finish_reason"))  # fmt: skip
    _counts(out, row, "native_tokens_")


def _counts(out: Request, row: dict[str, Any], prefix: str) -> None:
    openai.read_usage(
        out,
        {
            "prompt_tokens": row.get(f"{prefix}prompt"),
            "completion_tokens": row.get(f"{prefix}completion"),
            "prompt_tokens_details": {"cached_tokens": row.get(f"{prefix}cached")},
            "completion_tokens_details": {"reasoning_tokens": row.get(f"{prefix}reasoning")},
        },
    )
    if count(row.get(f"{prefix}prompt"), "prompt", []) == 0:  # a request that failed
        out.input_tokens = out.output_tokens = out.cached_input_tokens = out.reasoning_tokens = None
        out.tokens_source = None


def _flag(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower())
