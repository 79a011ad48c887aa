"""Ollama: OpenAI's chat, its own API for prompts as text; nothing is told of its cache."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine, Flush

ENGINE = Engine(
    name="ollama",
    label="Ollama",
    checked="0.33.0-rc2 (fb307609) read",
    endpoints={
        "chat": Endpoint("/v1/chat/completions", "chat"),
        "completions": Endpoint("/api/generate", "ollama", usage=False),
        "native": Endpoint("/api/chat", "ollama", usage=False),
        "responses": Endpoint("/v1/responses", "responses"),
        "messages": Endpoint("/v1/messages", "messages"),
    },
    ready="/api/version",
    version="/api/version",
    flush=Flush(
        "POST",
        "/api/generate",
        needs="nothing: the model is unloaded, and loaded again by the next request",
        body={"model": "MODEL", "keep_alive": 0},
        reloads=True,
    ),
    cache="ollama",
    notes=(
        "answers one request at a time unless OLLAMA_NUM_PARALLEL says otherwise",
        "prompts longer than its context are cut without a word: OLLAMA_CONTEXT_LENGTH",
        "/v1/completions puts the model's template around a prompt, so text goes to /api/generate with raw",
        "a prompt's count is whole, its duration covers what was not cached: their ratio is no prefill rate",
        "its /v1/responses always says that 0 tokens were cached",
    ),
    unverified=("not run: its server is on no index that was reached",),
)
