"""NVIDIA Dynamo's frontend, before workers of vLLM, SGLang, TensorRT-LLM or its mocker."""

from __future__ import annotations

from traceprof.engines.base import Capacity, Endpoint, Engine, Series, Telemetry

_PIN = {"ignore_eos": True}

ENGINE = Engine(
    name="dynamo",
    label="Dynamo",
    checked="1.6.1 run with the mocker",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat", pin=_PIN),
        "completions": Endpoint("/v1/completions", "completions", pin=_PIN),
        "ids": Endpoint("/v1/completions", "completions", pin=_PIN),
    },
    ready="/v1/models",
    capacity=(
        Capacity(
            "/metrics",
            ("dynamo_frontend_model_total_kv_blocks", "dynamo_frontend_model_kv_cache_block_size"),
        ),
    ),
    settings={"block_size": Capacity("/metrics", ("dynamo_frontend_model_kv_cache_block_size",))},
    between_runs="restart its workers, and remove its store of registrations",
    cached="usage.prompt_tokens_details.cached_tokens; not with workers of SGLang",
    telemetry=Telemetry(
        path="/metrics",
        series={
            "prompt_tokens": (Series("dynamo_frontend_input_sequence_tokens_sum"),),
            "cached_tokens": (Series("dynamo_frontend_cached_tokens_sum"),),
            "generated": (Series("dynamo_frontend_output_tokens_total"),),
            "requests": (Series("dynamo_frontend_requests_total"),),
            "running": (Series("dynamo_frontend_inflight_requests"),),
            "waiting": (Series("dynamo_frontend_queued_requests"),),
        },
        misleading=("dynamo_frontend_tokenizer_cache_cached_tokens_total is of its tokenizer's cache",),
    ),
    cache="vllm",
    notes=(
        "/health answers before a model is there: a model in /v1/models is what counts",
        "a prompt that is too long is answered 200, with an error in the stream",
        "the capacity is one worker's",
    ),
    unverified=("how a real worker takes ignore_eos: the mocker always generates max_tokens",),
)
