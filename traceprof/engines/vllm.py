"""vLLM: everything that a replay wants, if it is started with the right flags."""

from __future__ import annotations

from traceprof.engines.base import OUTPUT, Capacity, Endpoint, Engine, Flush, Series, Telemetry

PIN = {"ignore_eos": True, "min_tokens": OUTPUT}

TELEMETRY = Telemetry(
    path="/metrics",
    series={
        "prompt_tokens": (Series("vllm:prompt_tokens_total"),),
        "cached_tokens": (Series("vllm:prompt_tokens_cached_total"), Series("vllm:prefix_cache_hits_total")),
        "queries": (Series("vllm:prefix_cache_queries_total"),),
        "hits": (Series("vllm:prefix_cache_hits_total"),),
        "generated": (Series("vllm:generation_tokens_total"),),
        "requests": (Series("vllm:request_success_total"),),
        "preemptions": (Series("vllm:num_preemptions_total"),),
        "running": (Series("vllm:num_requests_running"),),
        "waiting": (Series("vllm:num_requests_waiting"),),
        "kv_usage": (Series("vllm:kv_cache_usage_perc"),),
    },
    misleading=(
        "vllm:gpu_cache_usage_perc and vllm:gpu_prefix_cache_hit_rate are gone since 0.21",
        "the log line 'Prefix cache hit rate' is over the last 1000 requests",
        "up to 0.21 prefix_cache_queries counts a request again each time it is refused for lack of memory",
    ),
)

ENGINE = Engine(
    name="vllm",
    label="vLLM",
    checked="0.32.0 run on CPU, 0.33.0 read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", "cache_salt", PIN),
        "completions": Endpoint("/v1/completions", "completions", "cache_salt", PIN),
        "ids": Endpoint("/v1/completions", "completions", "cache_salt", PIN),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/health",
    version="/version",
    capacity=(
        Capacity("/metrics", ("vllm:cache_config_info@kv_cache_size_tokens",)),
        Capacity("/metrics", ("vllm:cache_config_info@num_gpu_blocks", "vllm:cache_config_info@block_size")),
    ),
    settings={"block_size": Capacity("/metrics", ("vllm:cache_config_info@block_size",))},
    flush=Flush(
        "POST", "/reset_prefix_cache", needs="VLLM_SERVER_DEV_MODE=1 in its environment", success="success"
    ),
    cached="usage.prompt_tokens_details.cached_tokens",
    cached_needs="--enable-prompt-tokens-details",
    telemetry=TELEMETRY,
    cache="vllm",
    flags=("--enable-prompt-tokens-details", "--generation-config vllm"),
    notes=(
        "chats with tools are refused (400) unless it is started with --enable-auto-tool-choice --tool-call-parser NAME",
        "the model's own generation_config.json sets sampling unless --generation-config vllm is given",
        "a request that a client cancels is counted nowhere",
    ),
)
