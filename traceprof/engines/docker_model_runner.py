"""Docker Model Runner: llama.cpp by default, vLLM and SGLang if asked for, behind Docker's own paths."""

from __future__ import annotations

from traceprof.engines import llamacpp
from traceprof.engines.base import Endpoint, Engine, Flush, Telemetry

ENGINE = Engine(
    name="docker_model_runner",
    label="Docker Model Runner",
    checked="642c7211 read",
    endpoints={
        "chat": Endpoint("/engines/v1/chat/completions", "chat", pin=llamacpp.PIN),
        "completions": Endpoint("/engines/v1/completions", "completions", pin=llamacpp.PIN),
        "ids": Endpoint("/engines/v1/completions", "completions", pin=llamacpp.PIN),
        "responses": Endpoint("/engines/v1/responses", "responses"),
        "messages": Endpoint("/engines/v1/messages", "messages"),
    },
    ready="/engines/status",
    models="/engines/v1/models",
    version="/version",
    flush=Flush(
        "POST",
        "/engines/unload",
        needs="nothing: models are unloaded, and loaded again by the next request",
        body={"all": True},
        reloads=True,
    ),
    cached="usage.prompt_tokens_details.cached_tokens, from llama.cpp",
    telemetry=Telemetry(
        path="/metrics",
        series=llamacpp.SERIES,
        prompt_excludes_cached=True,
        misleading=(
            *llamacpp.MISLEADING,
            "names in its METRICS.md (llama_...) are not those that llama.cpp gives",
        ),
    ),
    cache="llamacpp",
    notes=(
        "metrics are of the runners that run now; after an unload they begin at 0",
        "the default port is 12434",
    ),
    unverified=("not run: it needs Docker's engine",),
)
