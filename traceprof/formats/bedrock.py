"""Amazon Bedrock model invocation logs, from S3 or CloudWatch Logs: one object a call, bodies of Converse or of the model's own.

`timestamp` is to 1 s. Token counts leave out what was read from and written to the cache. Streams say when the first byte came,
Converse how long the call took; a plain InvokeModel has no end. Bodies over 100 KB lie in S3 objects under `data/`, which are not
read: the row has no prompt then. Source: elastic/integrations 06a6cc62 (fields); panther-labs/panther-analysis daa10c88; AWS docs.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.bodies import anthropic, invoke, openai
from traceprof.bodies.converse import model_name
from traceprof.formats.base import (
    SESSION_KEYS,
    BadRecord,
    Has,
    Read,
    Request,
    Skip,
    cut_state,
    elapsed,
    first_of,
    lasted,
    leftovers,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Amazon Bedrock model invocation logs (JSONL)"
notices = (b"Permissions are correctly set for Amazon Bedrock logs",)

_GENERATIONS = {
    "Converse": False,
    "ConverseStream": True,
    "InvokeModel": False,
    "InvokeModelWithResponseStream": True,
}
_OTHER = {"embed": "embedding", "rerank": "rerank", "canvas": "image", "stability": "image", "-image": "image", "reel": "video",
          "sonic": "audio"}  # fmt: skip
_REFUSED = ("ThrottlingException", "ValidationException", "AccessDeniedException", "ResourceNotFoundException",
            "ServiceQuotaExceededException")  # fmt: skip
_METRICS = "amazon-bedrock-invocationMetrics"


def detect(record: dict[str, Any]) -> bool:
    """The name that the log gives itself."""
    return record.get("schemaType") == "ModelInvocationLog"


def read(record: dict[str, Any]) -> Read:
    """One call; embeddings, images and calls that are no invocation are skipped by kind."""
    operation = str(record.get("operation"))
    model = model_name(record.get("modelId"))
    kind = next((kind for word, kind in _OTHER.items() if word in (model or "")), None)
    if kind is not None or operation not in _GENERATIONS:
        return Skip(kind or "not_a_generation")
    if record.get("timestamp") is None:
        raise BadRecord("missing_field", "no timestamp")
    out = Request(clock="absolute", arrival_quality="measured", arrival_resolution_us=1_000_000)
    out.arrival_us, naive = parse_time(record["timestamp"], "timestamp")
    if naive:
        out.quality.append("tz_assumed")
    out.request_id = text(record.get("requestId"))
    out.model_requested, out.provider = model, "bedrock"
    sent, got = (_object(record.get(key)) for key in ("input", "output"))
    _identity(out, record)
    body = bodies.as_object(sent.get("inputBodyJson"))
    _prompt(out, sent, body)
    out.model_requested = model or out.model_requested
    out.stream = _GENERATIONS[operation]
    answer = bodies.decoded(got.get("outputBodyJson"))
    _answer(out, answer, body)
    if text(got.get("outputBodyS3Path")):
        out.quality.append("output_offloaded")
    _times(out, answer)
    _counts(out, sent, got, answer)
    error = text(record.get("errorCode"))
    if error:
        out.status, out.error_type = "rejected" if error in _REFUSED else "error", error
    elif out.status == "unknown" and out.output_tokens is not None:
        out.status = "ok"
    out.extra_json = leftovers(record, ("region", "inferenceRegion"))
    if body is not None and bodies.of_request(body) is openai:
        return openai.sequences(out, body)
    return cut_state(out)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _identity(out: Request, record: dict[str, Any]) -> None:
    """Fill who asked: the ARN, of an assumed role without the name of its session, and what the client sent as metadata."""
    who = text(_object(record.get("identity")).get("arn"))
    if who and ":assumed-role/" in who:
        who = "/".join(who.split("/")[:2])
    meta = _object(record.get("requestMetadata"))
    out.tenant_id = text(first_of(meta, ("tenant", "tenant_id", "tenantId", "team"))) or who
    out.user_id = text(first_of(meta, ("user", "user_id", "userId")))
    out.app = text(first_of(meta, ("app", "application")))
    out.session_id = text(first_of(meta, SESSION_KEYS))
    out.session_kind = "explicit" if out.session_id else None


def _prompt(out: Request, sent: dict[str, Any], body: dict[str, Any] | None) -> None:
    asked = bodies.of_request(body) if body else None
    if body and (asked is None or (asked is openai and "messages" not in body)) and invoke.is_request(body):
        invoke.read_request(out, body)
    elif body and asked is not None:
        asked.read_request(out, body)
    else:
        out.content_level, out.content_state = "lengths", "absent"
        if text(sent.get("inputBodyS3Path")):
            out.quality.append("prompt_offloaded")


def _answer(out: Request, answer: Any, body: dict[str, Any] | None) -> None:
    """Fill the answer: an object, or the events of a stream, after which may stand the word [DONE]."""
    got = bodies.answer(answer)
    if got is None and isinstance(answer, list):
        got = invoke.join(answer)
    if got is None:
        return
    known = bodies.of_response(got)
    if known is None or (known is openai and "messages" not in (body or {})):
        invoke.read_response(out, got)
    else:
        bodies.read_response(out, got, known)
    action = "amazon-bedrock-guardrailAction"
    pieces = answer if isinstance(answer, list) else [answer]
    if any(isinstance(p, dict) and p.get(action) == "INTERVENED" for p in pieces):
        out.finish_reason = "content_filter"
        out.status = "ok"


def _metrics(answer: Any) -> dict[str, Any]:
    """What the last event of a stream, or the answer itself, says about the call."""
    for piece in reversed(answer) if isinstance(answer, list) else (answer,):
        found = _object(piece).get(_METRICS)
        if isinstance(found, dict):
            return found
    return {}


def _times(out: Request, answer: Any) -> None:
    found = _metrics(answer)
    took = found.get("invocationLatency")
    for piece in answer if isinstance(answer, list) else (answer,):
        source = _object(_object(piece).get("metadata")) or _object(piece)
        if took is None:
            took = _object(source.get("metrics")).get("latencyMs")
    first = elapsed(found.get("firstByteLatency"), "firstByteLatency", 1e3, out.quality)
    lasted(out, elapsed(took, "latencyMs", 1e3, out.quality), first)


def _counts(out: Request, sent: dict[str, Any], got: dict[str, Any], answer: Any) -> None:
    """The answer's own counts hold; where it has none, those of the log, then those of the stream's last event."""
    found = _metrics(answer)
    if out.input_tokens is None:
        written = out.output_tokens
        usage = {
            "input_tokens": _either(sent, found, "inputTokenCount"),
            "cache_read_input_tokens": _either(sent, found, "cacheReadInputTokenCount"),
            "cache_creation_input_tokens": _either(sent, found, "cacheWriteInputTokenCount"),
            "output_tokens": _either(got, found, "outputTokenCount") if written is None else written,
        }
        anthropic.read_usage(out, usage)
    if not out.input_tokens and not out.output_tokens:  # 0 where no model saw the prompt
        out.input_tokens = out.output_tokens = out.cached_input_tokens = out.cache_write_tokens = None
        out.tokens_source = None


def _either(one: dict[str, Any], other: dict[str, Any], key: str) -> Any:
    value = one.get(key)
    return other.get(key) if value is None else value
