"""The serving engines that traceprof can replay against: one file each, one record in it.

`engine("vllm")` gives the record, `detect` finds out which engine answers at an address.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from traceprof.engines.asking import Ask, Reply
from traceprof.engines.base import OUTPUT, Engine, Series
from traceprof.errors import UsageError

NAMES = (
    "vllm", "sglang", "tensorrt_llm", "llamacpp", "ollama", "tgi", "lmdeploy", "mlx_lm", "vllm_mlx", "omlx", "vllm_metal",
    "lemonade", "docker_model_runner", "dynamo", "litellm", "olla", "openai",
)  # fmt: skip
"""Engines by the names of the command line, `openai` for whatever is not known."""


def engine(name: str) -> Engine:
    """The record of an engine; dashes and dots of its name do not matter.

    >>> engine("llama.cpp").label, engine("mlx-lm").label
    ('llama.cpp', 'mlx-lm')
    """
    key = _key(name)
    if key not in NAMES:
        near = mistyped(name)
        raise UsageError(
            f"no engine is called {name!r}",
            remedy=f"did you mean {near}?" if near else f"give one of {', '.join(NAMES)}; any server: openai",
        )
    found: Engine = importlib.import_module(f"traceprof.engines.{key}").ENGINE
    return found


def named(name: str) -> Engine | None:
    """The engine that a name means which may have a suffix of the user's own; None where it is all the user's own.

    >>> named("vllm-a").name, named("mlx-lm-1").name, named("production")
    ('vllm', 'mlx_lm', None)
    """
    known = next((one for one in _beginnings(name) if _key(one) in NAMES), None)
    return None if known is None else engine(known)


def mistyped(name: str) -> str | None:
    """The engine that a name is nearly called; None where it is one, or like none.

    >>> mistyped("vlm"), mistyped("olama-a"), mistyped("vllm-a"), mistyped("production")
    ('vllm', 'ollama', None, None)
    """
    if named(name) is not None:
        return None
    near = (difflib.get_close_matches(_key(one), (*NAMES, *_ALIASES), 1, _LIKE) for one in _beginnings(name))
    return next((_key(found[0]) for found in near if found), None)


def _beginnings(name: str) -> list[str]:
    """Example: a-b-c -> [a-b-c, a-b, a]"""
    words = name.split("-")
    return ["-".join(words[:n]) for n in range(len(words), 0, -1)]


def _key(name: str) -> str:
    key = name.lower().replace("-", "_").replace(".", "")
    return _ALIASES.get(key, key)


_LIKE = 0.8  # of 1: vlm and vllm are 0.86 alike, model and mlx_lm 0.55
_ALIASES = {
    "llama_cpp": "llamacpp", "trtllm": "tensorrt_llm", "trt_llm": "tensorrt_llm", "tensorrtllm": "tensorrt_llm",
    "mlxlm": "mlx_lm", "vllmmlx": "vllm_mlx", "vllmmetal": "vllm_metal", "dmr": "docker_model_runner",
}  # fmt: skip


def facts(of: Engine) -> dict[str, Any]:
    """What is known of an engine, as plain values: what `traceprof engines` prints.

    >>> facts(engine("mlx-lm"))["parts_cache"]
    []
    """
    parts = ["flush"] if of.flush is not None else []
    parts += ["salt"] if any(endpoint.salt for endpoint in of.endpoints.values()) else []
    telemetry = of.telemetry
    return {
        "name": of.name,
        "label": of.label,
        "checked": of.checked,
        "endpoints": {
            name: {
                "path": endpoint.path,
                "dialect": endpoint.dialect,
                "salt": endpoint.salt,
                "pins": {key: "the recorded length" if value == OUTPUT else value for key, value in endpoint.pin.items()},
            }
            for name, endpoint in of.endpoints.items()
        },
        "ready": of.ready,
        "models": of.models,
        "version": of.version,
        "capacity": [f"{place.path}: {' x '.join(place.factors)}" for place in of.capacity],
        "parts_cache": parts,
        "flush": None if of.flush is None else {"send": f"{of.flush.method} {of.flush.path}", "needs": of.flush.needs},
        "between_runs": of.between_runs,
        "cached_tokens": of.cached,
        "cached_tokens_need": of.cached_needs,
        "counters": None if telemetry is None else {
            "path": telemetry.path,
            "needs": telemetry.needs,
            "series": {
                meaning: [_series(series) for series in choices] for meaning, choices in telemetry.series.items()
            },
            "prompt_tokens_leave_out_cached": telemetry.prompt_excludes_cached,
            "misleading": list(telemetry.misleading),
        },
        "cache_model": of.cache,
        "start_with": list(of.flags),
        "notes": list(of.notes),
        "unverified": list(of.unverified),
    }  # fmt: skip


def _series(series: Series) -> str:
    labels = ",".join(f'{name}=~"{"|".join(values)}"' for name, values in series.labels.items())
    return f"{series.name}{{{labels}}}" if labels else series.name


def detect(ask: Ask) -> str:
    """The name of the engine that answers, `openai` where that is not plain.

    Proxies come first, since they pass on what the engine behind them says. Only GET is sent, and nothing that generates.
    """
    seen: dict[str, Reply] = {}

    def get(path: str) -> Reply:
        if path not in seen:
            seen[path] = ask("GET", path, None)
        return seen[path]

    for name, tell in _TELLS:
        if tell(get):
            return name
    return "openai"


def _served_by(word: str) -> Callable[[Callable[[str], Reply]], bool]:
    """A tell: who owns the first model of /v1/models."""

    def tell(get: Callable[[str], Reply]) -> bool:
        models = get("/v1/models").json().get("data")
        first = models[0] if isinstance(models, list) and models else None
        return isinstance(first, dict) and first.get("owned_by") == word

    return tell


def _has(path: str, *keys: str) -> Callable[[Callable[[str], Reply]], bool]:
    """A tell: a path answers with a JSON object that has all these keys."""
    return lambda get: get(path).ok and all(key in get(path).json() for key in keys)


def _says(path: str, word: bytes) -> Callable[[Callable[[str], Reply]], bool]:
    """A tell: a path answers 200 with a word in its body."""
    return lambda get: get(path).ok and word in get(path).body


def _is_mlx_lm(get: Callable[[str], Reply]) -> bool:
    """A tell: Python's own HTTP server, a health of one word, no metrics."""
    health = get("/health")
    plain = health.headers.get("server", "").startswith("BaseHTTP") and health.json() == {"status": "ok"}
    return plain and get("/metrics").status == 404


_TELLS: tuple[tuple[str, Callable[[Callable[[str], Reply]], bool]], ...] = (
    ("litellm", _says("/health/liveliness", b"alive")),
    ("olla", _has("/internal/health", "status")),
    ("docker_model_runner", _says("/", b"Docker Model Runner")),
    ("lemonade", _has("/api/v1/health", "status")),
    ("ollama", _says("/", b"Ollama is running")),
    ("sglang", _has("/server_info", "max_total_num_tokens")),
    ("sglang", _served_by("sglang")),
    ("vllm_mlx", _has("/health", "model_loaded", "engine_type")),
    ("omlx", _has("/health", "engine_pool")),
    ("tgi", _has("/info", "max_batch_total_tokens")),
    ("vllm", _served_by("vllm")),
    ("tensorrt_llm", _served_by("tensorrt_llm")),
    ("lmdeploy", _served_by("lmdeploy")),
    ("dynamo", _says("/metrics", b"dynamo_frontend_")),
    ("llamacpp", _has("/props", "total_slots")),
    ("llamacpp", _served_by("llamacpp")),
    ("mlx_lm", _is_mlx_lm),
)
