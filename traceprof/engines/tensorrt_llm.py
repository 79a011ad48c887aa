"""TensorRT-LLM behind trtllm-serve. Unknown fields of a body are refused, so each endpoint takes only its own."""

from __future__ import annotations

from traceprof.engines.base import OUTPUT, Capacity, Endpoint, Engine, Series, Telemetry

_PIN = {"ignore_eos": True, "min_tokens": OUTPUT}

ENGINE = Engine(
    name="tensorrt_llm",
    label="TensorRT-LLM",
    checked="serve/openai_protocol.py 0076e939 and metrics/collector.py 050f80de read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", "cache_salt", _PIN),
        "completions": Endpoint("/v1/completions", "completions", None, _PIN),
        "ids": Endpoint("/v1/completions", "completions", None, _PIN),
        "responses": Endpoint("/v1/responses", "responses"),
    },
    ready="/health",
    version="/version",
    capacity=(
        Capacity("/prometheus/metrics", ("trtllm_kv_cache_max_blocks", "trtllm_kv_cache_tokens_per_block")),
    ),
    between_runs="restart it, or send chats with a cache salt",
    cached="usage.prompt_tokens_details.cached_tokens",
    telemetry=Telemetry(
        path="/prometheus/metrics",
        needs="return_perf_metrics: true in its configuration",
        series={
            "prompt_tokens": (Series("trtllm_prompt_tokens_total"),),
            "cached_tokens": (Series("trtllm_prompt_cached_tokens_total"),),
            "generated": (Series("trtllm_generation_tokens_total"),),
            "requests": (Series("trtllm_request_success_total"),),
            "running": (Series("trtllm_num_requests_running"),),
            "waiting": (Series("trtllm_num_requests_waiting"),),
            "kv_usage": (Series("trtllm_kv_cache_utilization"),),
        },
        misleading=(
            "/metrics is a list of iterations in JSON that empties as it is read",
            "trtllm_kv_cache_reused_blocks_total counts blocks, not tokens",
        ),
    ),
    cache="tensorrt_llm",
    flags=("return_perf_metrics: true", "enable_iter_perf_stats: true"),
    notes=(
        "its /health_generate generates, so it is not asked",
        "tools are ignored unless tool_choice is sent: its default is none",
        "release 1.1 has only five of these metrics",
    ),
    unverified=(
        "not run: it needs an NVIDIA GPU",
        "whether cached tokens of every release count partly reused blocks",
    ),
)
