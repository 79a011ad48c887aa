"""oMLX: a server for Apple silicon whose cache lives on the SSD and outlives it."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine

ENGINE = Engine(
    name="omlx",
    label="oMLX",
    checked="server.py 01496518 read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/v1/completions", "completions"),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/health",
    between_runs="stop it, delete its SSD cache folder and start it again",
    cached="usage.cached_tokens, or usage.prompt_tokens_details.cached_tokens",
    cache="omlx",
    notes=("its cache is on the SSD: a restart alone does not empty it",),
    unverified=(
        "not run: it is an application for macOS",
        "versions differ, and an indexed file may be of a fork",
        "its admin API can clear the cache, behind a login; it is not used",
    ),
)
