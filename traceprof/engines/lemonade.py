"""Lemonade: a server that starts llama.cpp and others, and passes on what they say."""

from __future__ import annotations

from traceprof.engines import llamacpp
from traceprof.engines.base import Endpoint, Engine, Flush, Telemetry

ENGINE = Engine(
    name="lemonade",
    label="Lemonade",
    checked="e385039e read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", pin=llamacpp.PIN),
        "completions": Endpoint("/v1/completions", "completions", pin=llamacpp.PIN),
        "responses": Endpoint("/v1/responses", "responses"),
    },
    ready="/live",
    version="/v1/health",
    flush=Flush(
        "POST",
        "/v1/slots/{slot}?action=erase",
        needs="--slot-save-path and --cache-ram 0 among the llama.cpp arguments",
        slots="/v1/slots",
    ),
    between_runs="unload the model",
    cached="timings.cache_n, from llama.cpp",
    telemetry=Telemetry(
        path="/metrics",
        series=llamacpp.SERIES,
        prompt_excludes_cached=True,
        misleading=(*llamacpp.MISLEADING, "/v1/stats is of the last request alone"),
    ),
    cache="llamacpp",
    notes=("its cache is llama.cpp's where a GGUF model runs", "the default port is 13305"),
    unverified=(
        "not run: it fetches its back ends",
        "what its /metrics leaves out of llama.cpp's",
        "pinning: whether ignore_eos is passed on to every back end",
    ),
)
