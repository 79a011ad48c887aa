"""LMDeploy: prefixes are cached only if asked for; cached tokens are told always."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine, Series, Telemetry

_PIN = {"ignore_eos": True}

ENGINE = Engine(
    name="lmdeploy",
    label="LMDeploy",
    checked="0.16.0 (1263d5cd) read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", pin=_PIN),
        "completions": Endpoint("/v1/completions", "completions", pin=_PIN),
        "ids": Endpoint("/generate", "lmdeploy", pin=_PIN, usage=False),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/health",
    cached="usage.prompt_tokens_details.cached_tokens; not on /generate",
    telemetry=Telemetry(
        path="/metrics/",
        series={
            "prompt_tokens": (Series("lmdeploy:prompt_tokens_total"),),
            "cached_tokens": (Series("lmdeploy:cached_tokens_total"),),
            "generated": (Series("lmdeploy:generation_tokens_total"),),
            "requests": (Series("lmdeploy:request_success_total"),),
            "running": (Series("lmdeploy:num_requests_running"),),
            "waiting": (Series("lmdeploy:num_requests_waiting"),),
            "kv_usage": (Series("lmdeploy:gpu_cache_usage_perc"),),
        },
        misleading=("lmdeploy:prefix_cache_hit_rate is a gauge of the engine's own window",),
    ),
    cache="lmdeploy",
    flags=("--enable-prefix-caching",),
    notes=("0 cached tokens may mean that prefix caching is off: it is off by default",),
    unverified=(
        "not run: it needs a GPU",
        "where it tells its capacity: lmdeploy:backend_config was not read",
    ),
)
