"""TGI v3: no cached tokens anywhere but in its log, and no way to force a length."""

from __future__ import annotations

from traceprof.engines.base import Capacity, Endpoint, Engine, Series, Telemetry

ENGINE = Engine(
    name="tgi",
    label="TGI",
    checked="db931fcf read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "generate": Endpoint("/generate_stream", "tgi", usage=False),
    },
    ready="/health",
    version="/info",
    capacity=(
        Capacity("/info", ("max_batch_total_tokens",)),
        Capacity("/metrics", ("tgi_batch_max_total_tokens",)),
    ),
    cached="never; its log has 'Prefix N - Suffix M' for each request",
    telemetry=Telemetry(
        path="/metrics",
        series={
            "prompt_tokens": (Series("tgi_request_input_length_sum"),),
            "generated": (Series("tgi_request_generated_tokens_sum"),),
            "requests": (Series("tgi_request_success"), Series("tgi_request_success_total")),
            "running": (Series("tgi_batch_current_size"),),
            "waiting": (Series("tgi_queue_size"),),
        },
    ),
    cache="tgi",
    notes=(
        "in maintenance; answers end where the model ends them",
        "what is generated is never cached: a next turn reuses only what stood in an earlier prompt",
    ),
    unverified=("not run", "whether its counters end in _total in every release"),
)
