"""llama.cpp's llama-server: tells most, per request and in total; its cache is one per slot."""

from __future__ import annotations

from traceprof.engines.base import Capacity, Endpoint, Engine, Flush, Series, Telemetry

PIN = {"ignore_eos": True}

SERIES = {
    "prompt_tokens": (Series("llamacpp:prompt_tokens_total"),),
    "cached_tokens": (Series("llamacpp:prompt_tokens_cached_total"),),
    "generated": (Series("llamacpp:tokens_predicted_total"),),
    "running": (Series("llamacpp:requests_processing"),),
    "waiting": (Series("llamacpp:requests_deferred"),),
}
MISLEADING = (
    "llamacpp:prompt_tokens_seconds and predicted_tokens_seconds are averages since the last reading",
    "llamacpp:n_tokens_max is typed as a counter and is a maximum",
    "/completion's tokens_cached is what the slot holds after the request, not the hit",
)

ENGINE = Engine(
    name="llamacpp",
    label="llama.cpp",
    checked="11434 and 2026.10.11549 (xllamacpp) run, 0c1e5709 read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", pin=PIN),
        "completions": Endpoint("/v1/completions", "completions", pin=PIN),
        "ids": Endpoint("/v1/completions", "completions", pin=PIN),
    },
    ready="/health",
    version="/props",
    capacity=(Capacity("/props", ("default_generation_settings.n_ctx", "total_slots")),),
    settings={"slots": Capacity("/props", ("total_slots",))},
    flush=Flush(
        "POST",
        "/slots/{slot}?action=erase",
        needs="--slot-save-path DIR, and --cache-ram 0, or prompts come back from memory",
        slots="/props",
    ),
    cached="usage.prompt_tokens_details.cached_tokens, and timings.cache_n",
    telemetry=Telemetry(
        path="/metrics",
        needs="--metrics",
        series=SERIES,
        prompt_excludes_cached=True,
        misleading=MISLEADING,
    ),
    cache="llamacpp",
    flags=("--metrics", "--slots", "--slot-save-path DIR", "--cache-ram 0"),
    notes=(
        "with a unified KV (-kvu, the default without -np) slots share one context, and the capacity here is too large by their number",
        "an unknown model name is answered by the model that is loaded",
        "builds before llamacpp:prompt_tokens_cached_total tell cached tokens per request only",
    ),
)
