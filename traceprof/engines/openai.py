"""Any server or provider that speaks OpenAI's API, with nothing known beyond it."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine

ENGINE = Engine(
    name="openai",
    label="OpenAI-compatible",
    checked="OpenAI's API reference",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "ids": Endpoint("/v1/completions", "completions"),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/v1/models",
    between_runs="wait until the provider's cache has expired",
    cached="usage.prompt_tokens_details.cached_tokens, where it is there",
    notes=("OpenAI's own reasoning models take max_completion_tokens only",),
    unverified=("what a server that is not known by name does with anything but the standard fields",),
)
