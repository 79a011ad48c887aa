"""Olla: a proxy that passes everything on and says in a header which engine answered."""

from __future__ import annotations

from traceprof.engines.base import Endpoint, Engine, Series, Telemetry

ENGINE = Engine(
    name="olla",
    label="Olla",
    checked="200c24f6 read",
    endpoints={
        "chat": Endpoint("/olla/proxy/v1/chat/completions", "chat"),
        "completions": Endpoint("/olla/proxy/v1/completions", "completions"),
        "ids": Endpoint("/olla/proxy/v1/completions", "completions"),
        "messages": Endpoint("/olla/anthropic/v1/messages", "messages"),
    },
    ready="/internal/health",
    models="/olla/proxy/v1/models",
    version="/version",
    between_runs="flush or restart the engines behind it, past the proxy",
    cached="as the engine that answers tells it",
    telemetry=Telemetry(
        path="/internal/metrics",
        series={"running": (Series("olla_active_connections"),)},
        misleading=("olla_success_rate_percent and olla_avg_latency_ms are gauges since its start",),
    ),
    notes=(
        "X-Olla-Endpoint tells which engine answered",
        "sessions stick to an engine only if it is told so; otherwise prefixes are spread over all of them",
    ),
    unverified=("not run",),
)
