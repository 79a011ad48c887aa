"""Kong AI plugins: one object of file-log, http-log or tcp-log a request, with an `ai` object by plugin.

Prompts and answers only with the plugin's `log_payloads`. `latencies.request` counts ms from `started_at`. Docs and code disagree
on singular names of counts: both are read. Source: Kong/kong 22246ef2, kong/llm and the AI plugins.
"""

from __future__ import annotations

from typing import Any

from traceprof import bodies
from traceprof.formats.base import (
    BadRecord,
    Has,
    Read,
    Request,
    Skip,
    elapsed,
    first_of,
    http_code,
    lasted,
    parse_time,
    text,
)

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "Kong AI Gateway logs of any log plugin (JSONL)"

_PARTS = ("meta", "usage", "payload", "cache")


def detect(record: dict[str, Any]) -> bool:
    """A log object of Kong that an AI plugin added to."""
    return isinstance(record.get("ai"), dict) and "latencies" in record and "started_at" in record


def read(record: dict[str, Any]) -> Read:
    """One request; what no AI plugin saw is skipped."""
    said = _ai(record.get("ai"))
    if not any(said.values()):
        return Skip("not_a_generation")
    if record.get("started_at") is None:
        raise BadRecord("missing_field", "no started_at")
    out = Request(clock="absolute", arrival_quality="measured")
    out.arrival_us = parse_time(record["started_at"], "started_at")[0]
    request, response, latencies, consumer = (_object(record, k) for k in ("request", "response", "latencies", "consumer"))  # fmt: skip
    lasted(out, elapsed(latencies.get("request"), "latencies", 1e3, out.quality))
    out.request_id = text(request.get("id"))
    out.tenant_id = text(first_of(consumer, ("username", "custom_id", "id")))
    meta, usage = said["meta"], said["usage"]
    out.model_requested = text(meta.get("request_model"))
    out.model_served = text(meta.get("response_model"))
    out.provider = text(meta.get("provider_name"))
    out.http_status = http_code(response.get("status"))
    hit = text(said["cache"].get("cache_status"))
    out.served_from_response_cache = hit.lower() == "hit" if hit else None
    counts = {
        "prompt_tokens": first_of(usage, ("prompt_tokens", "prompt_token")),
        "completion_tokens": first_of(usage, ("completion_tokens", "completion_token")),
    }
    payload = said["payload"]
    return bodies.exchange(out, payload.get("request"), payload.get("response"), counts)


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _ai(plugins: Any) -> dict[str, dict[str, Any]]:
    """What the AI plugins noted, together; of what several noted, the proxy's holds, else the first.

    What a transformer noted is of the call that it made itself, to rewrite a request or an answer.
    """
    out: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    known = plugins if isinstance(plugins, dict) else {}
    own = [name for name in known if "transformer" not in str(name)] or list(known)
    for plugin in (known[name] for name in sorted(own, key=lambda name: "proxy" not in str(name))):
        for part in _PARTS if isinstance(plugin, dict) else ():
            out[part] = {**_object(plugin, part), **out[part]}
    return out
