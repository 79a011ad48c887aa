"""vllm-mlx: an own server for Apple silicon, not vLLM; its cache's counts are gauges that it can reset."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine, Flush, Series, Telemetry

ENGINE = Engine(
    name="vllm_mlx",
    label="vllm-mlx",
    checked="4b654c09 read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/health",
    flush=Flush(
        "DELETE", "/v1/cache/prefix", needs="--continuous-batching", success="status", success_value="cleared"
    ),
    cached="only on /v1/responses",
    telemetry=Telemetry(
        path="/metrics",
        needs="--enable-metrics",
        series={
            "prompt_tokens": (Series("vllm_mlx_prompt_tokens_total"),),
            "cached_tokens": (Series("vllm_mlx_cache_tokens_saved"),),
            "generated": (Series("vllm_mlx_completion_tokens_total"),),
            "requests": (Series("vllm_mlx_inference_requests_total"),),
            "running": (Series("vllm_mlx_scheduler_running_requests"),),
            "waiting": (Series("vllm_mlx_scheduler_waiting_requests"),),
        },
        misleading=("vllm_mlx_cache_hits and _misses count requests, not tokens",),
    ),
    cache="vllm_mlx",
    flags=("--continuous-batching", "--enable-metrics"),
    notes=(
        "with --warm-prompts a flush is followed by a warm-up of its own",
        "vllm_mlx_cache_tokens_saved falls to 0 when the cache is cleared",
    ),
    unverified=(
        "not run as an engine of a replay: it needs Apple silicon",
        "whether tokens saved count what was matched or what was computed",
    ),
)
