"""vLLM with the Metal plugin, on Apple silicon: vLLM's core, API and metrics."""

from __future__ import annotations

from dataclasses import replace

from traceprof.engines import vllm

ENGINE = replace(
    vllm.ENGINE,
    name="vllm_metal",
    label="vLLM-metal",
    checked="0.3.0 read, on vLLM 0.2x",
    notes=(*vllm.ENGINE.notes, "prefixes are cached only with paged attention, its default"),
    unverified=("not run: it needs Apple silicon",),
)
