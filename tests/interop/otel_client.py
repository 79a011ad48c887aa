"""Calls of the OpenAI client under one instrumentation, spans and log records written by the OpenTelemetry SDK's OTLP-JSON file exporter.

`python otel_client.py KIND URL FOLDER` writes spans.jsonl and logs.jsonl as the SDK's exporter does, and seen.jsonl: what the client
itself saw of each call, in order. Runs in the environment `otel`; KIND is one of those below.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

KINDS = ("openai_v2", "openai_v2_latest", "openinference", "openllmetry")
kind, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

# read by the instrumentations when they are imported
os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"
if kind == "openai_v2_latest":
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_AND_EVENT"

from openai import OpenAI, OpenAIError  # noqa: E402
from opentelemetry import _logs, trace  # noqa: E402
from opentelemetry.exporter.otlp.json.file import FileSpanExporter  # noqa: E402
from opentelemetry.exporter.otlp.json.file._log_exporter import FileLogExporter  # noqa: E402
from opentelemetry.sdk._logs import LoggerProvider  # noqa: E402
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor  # noqa: E402
from opentelemetry.sdk.resources import Resource  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402


def instrument(spans: TracerProvider, logs: LoggerProvider) -> None:
    if kind == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=spans)
    elif kind == "openllmetry":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=spans)
    else:
        from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(tracer_provider=spans, logger_provider=logs)


def call(client: OpenAI, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One call, and what it came to."""
    asked = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0} | more
    seen: dict[str, Any] = {"asked": asked, "sent": time.time()}
    try:
        answer = client.chat.completions.create(**asked)
        chunks = list(answer) if more.get("stream") else [answer]
    except OpenAIError as failed:
        return seen | {"ended": time.time(), "error": type(failed).__name__}
    usage = next(c.usage for c in reversed(chunks) if c.usage is not None)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices] if more.get("stream") else []
    return seen | {
        "ended": time.time(),
        "id": chunks[0].id,
        "text": "".join(pieces) if pieces else answer.choices[0].message.content,
        "usage": usage.model_dump(),
    }


def calls(client: OpenAI) -> list[dict[str, Any]]:
    """Two turns of a conversation, the first streamed; one call with other characters; one that is too long."""
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    first = [
        {"role": "system", "content": "You are the help of a library of Python files. " * 8},
        {"role": "user", "content": "What does « def read(self) » return?"},
    ]
    seen = [call(client, first, **stream)]
    second = [
        *first,
        {"role": "assistant", "content": seen[0]["text"]},
        {"role": "user", "content": "And close?"},
    ]
    seen.append(call(client, second))
    seen.append(
        call(client, [{"role": "user", "content": "Grüße, 世界 🙂: \"this\" and 'that'"}], max_tokens=5)
    )
    seen.append(call(client, [{"role": "user", "content": "import os " * 6000}]))
    return seen


def main() -> None:
    resource = Resource.create({"service.name": f"interop-{kind}"})
    spans, logs = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    spans.add_span_processor(SimpleSpanProcessor(FileSpanExporter(folder / "spans.jsonl")))
    logs.add_log_record_processor(SimpleLogRecordProcessor(FileLogExporter(folder / "logs.jsonl")))
    trace.set_tracer_provider(spans)
    _logs.set_logger_provider(logs)
    instrument(spans, logs)
    client = OpenAI(base_url=url, api_key="sk-local", max_retries=0, timeout=60)
    if kind == "openinference":
        from openinference.instrumentation import using_attributes

        with using_attributes(session_id="s_7", user_id="u_81"):
            seen = calls(client)
    else:
        seen = calls(client)
    spans.shutdown()
    logs.shutdown()
    with (folder / "seen.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(one) + "\n" for one in seen)


if __name__ == "__main__":
    main()
