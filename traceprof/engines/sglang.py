"""SGLang: its own names for nearly everything; metrics and cached tokens are off unless asked for."""

from __future__ import annotations

from traceprof.engines.base import OUTPUT, Capacity, Endpoint, Engine, Flush, Series, Telemetry

_PIN = {"ignore_eos": True, "min_tokens": OUTPUT}

ENGINE = Engine(
    name="sglang",
    label="SGLang",
    checked="0.5.23 run on CPU and read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", "cache_salt", _PIN),
        "completions": Endpoint("/v1/completions", "completions", "cache_salt", _PIN),
        "ids": Endpoint("/v1/completions", "completions", "cache_salt", _PIN),
        "responses": Endpoint("/v1/responses", "responses"),
    },
    ready="/ready",
    version="/server_info",
    capacity=(
        Capacity("/server_info", ("max_total_num_tokens",)),
        Capacity("/metrics", ("sglang:max_total_num_tokens",)),
    ),
    settings={"page_size": Capacity("/server_info", ("page_size",))},
    flush=Flush("POST", "/flush_cache", needs="nothing, but it does nothing while requests run"),
    cached="usage.prompt_tokens_details.cached_tokens",
    cached_needs="--enable-cache-report",
    telemetry=Telemetry(
        path="/metrics",
        needs="--enable-metrics",
        series={
            "prompt_tokens": (Series("sglang:prompt_tokens_total"),),
            "cached_tokens": (
                Series("sglang:cached_tokens_total", {"cache_source": ("device", "host", "storage")}),
                Series("sglang:cached_tokens_total", {"cache_source": ("total",)}),
                Series("sglang:cached_tokens_total"),
            ),
            "generated": (Series("sglang:generation_tokens_total"),),
            "requests": (Series("sglang:num_requests_total"),),
            "running": (Series("sglang:num_running_reqs"),),
            "waiting": (Series("sglang:num_queue_reqs"),),
            "kv_usage": (Series("sglang:token_usage"),),
        },
        misleading=(
            "sglang:cache_hit_rate is of the last prefill batch alone",
            "sglang:realtime_tokens_total counts again what a retracted request computes again",
            "sglang:num_retracted_reqs is a gauge: it does not count preemptions",
        ),
    ),
    cache="sglang",
    flags=("--enable-metrics", "--enable-cache-report", "--sampling-defaults openai"),
    notes=(
        "its /health generates a token when idle and puts it into the cache; /ready does not",
        "ignore_eos makes admission more careful than in production: room for the whole output is kept",
        "one event of a stream may carry several tokens",
        "an unknown model name is answered by the model that is loaded",
    ),
)
