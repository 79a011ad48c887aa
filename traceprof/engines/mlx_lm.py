"""mlx-lm's server: cached tokens always, and nothing else."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine

ENGINE = Engine(
    name="mlx_lm",
    label="mlx-lm",
    checked="0.32.2 run on CPU, 0.32.0 read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
    },
    ready="/health",
    cached="usage.prompt_tokens_details.cached_tokens",
    cache="mlx_lm",
    settings_of={"completions": {"chat": False}},
    notes=(
        "the model is named by the path that it was started with",
        "connections are reset beyond about 30 at once: its listen queue is short",
        "a seed in a request keeps it from being batched",
        "comment lines come before the first token while the prompt is computed",
        "a space that a text begins with may be left out",
    ),
)
