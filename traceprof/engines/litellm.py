"""The LiteLLM proxy: passes an engine's answers on, and has counters of its own."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine, Series, Telemetry

ENGINE = Engine(
    name="litellm",
    label="LiteLLM",
    checked="1.90.7 run before llama.cpp",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/health/liveliness",
    between_runs="flush or restart the engine behind it, past the proxy",
    cached="usage.prompt_tokens_details.cached_tokens in chats; left out of streamed completions",
    telemetry=Telemetry(
        path="/metrics/",
        needs='callbacks: ["prometheus"] in its configuration',
        series={
            "prompt_tokens": (Series("litellm_input_tokens_metric_total"),),
            "cached_tokens": (Series("litellm_input_cached_tokens_metric_total"),),
            "generated": (Series("litellm_output_tokens_metric_total"),),
            "requests": (Series("litellm_proxy_total_requests_metric_total"),),
            "running": (Series("litellm_in_flight_requests"),),
        },
        misleading=(
            "litellm_cached_tokens_metric and litellm_cache_hits_metric are of its own response cache",
        ),
    ),
    notes=(
        "its response cache must be off, or no engine sees the request",
        "its /health asks every engine for an answer, so it is not used",
        "litellm_in_flight_requests counts the scrape itself",
        "retries and fallbacks change times: num_retries: 0",
        "it alters times: measure the engine directly where you can",
    ),
)
