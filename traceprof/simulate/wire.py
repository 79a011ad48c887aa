"""What each engine says on the wire: the shape of its answers, errors and pages, as far as clients look at them.

Facts of an engine that a client needs are in `traceprof.engines`; here stands how the engine itself speaks: which chunk brings
the reason of the end, how it counts, how it words what it refuses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from traceprof.engines.base import GAUGES, Engine
from traceprof.engines.exposition import Sample
from traceprof.simulate.live_caches import TOKEN_BYTES
from traceprof.simulate.live_prompts import PromptError, Prompts, packed

OUTPUT = 128  # tokens of an answer whose length nobody has set
JSON, SSE, LINES, PLAIN = (
    "application/json",
    "text/event-stream; charset=utf-8",
    "application/x-ndjson",
    "text/plain; charset=utf-8",
)


class Manner(NamedTuple):
    """How an engine writes OpenAI's answers."""

    server: str  # header
    owner: str  # of its models
    opening: str | None = (
        ""  # content of the chunk that opens a chat: a text, or "null"; None: there is no such chunk
    )
    chat_ends_apart: bool = False  # the reason of the end comes in a chunk of its own
    text_ends_apart: bool = False
    cached: str | None = (
        "details"  # where usage tells cached tokens: prompt_tokens_details, at its top, or not
    )
    errors: str = "object"  # shape of an error


MANNERS = {
    "vllm": Manner("uvicorn", "vllm"),
    "sglang": Manner("uvicorn", "sglang", chat_ends_apart=True, errors="flat"),
    "tensorrt_llm": Manner("uvicorn", "tensorrt_llm", errors="flat"),
    "tgi": Manner(
        "text-generation-inference", "text-generation-inference", opening=None, cached=None, errors="tgi"
    ),
    "lmdeploy": Manner("uvicorn", "lmdeploy", errors="flat"),
    "llamacpp": Manner("llama.cpp", "llamacpp", "null", True, True),
    "ollama": Manner("ollama", "library", None, True, True, cached=None),
    "mlx_lm": Manner("BaseHTTP/0.6", "mlx_lm", None, True, True, errors="text"),
    "vllm_mlx": Manner("uvicorn", "vllm-mlx", "", True, True, cached=None),
    "omlx": Manner("uvicorn", "omlx", "", True, True, cached="top"),
}
"""By the names of `traceprof.simulate.schedulers`."""


class Refused(Exception):  # noqa: N818, an answer, no failure of ours
    """What the engine says instead of an answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Asked(NamedTuple):
    """A request, as far as it matters."""

    way: str  # one of WAYS
    model: str  # as it is to be named in the answer
    prompt: bytes  # tokens
    output: int  # tokens that will be generated
    finish: str  # why it ends there: length or stop
    stream: bool
    usage: bool  # counts are to come with a stream
    salt: str


class Told(NamedTuple):
    """What an answer says of itself at its end; seconds."""

    prompt: int  # tokens
    cached: int
    output: int
    finish: str
    prompt_s: float  # from admission to the first token
    output_s: float  # from there to the last
    total_s: float  # from arrival


# ---- requests


def loaded(data: bytes) -> Any:
    """A JSON value; None where it is none. Python's own reader takes halves of characters, which traces hold now and then."""
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


_KEYS = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "native": ("n_predict", "max_tokens"),
    "ollama_chat": ("num_predict",),
    "ollama_generate": ("num_predict",),
    "tgi": ("max_new_tokens",),
    "tgi_stream": ("max_new_tokens",),
    "lmdeploy": ("max_tokens",),
}
WAYS = tuple(_KEYS)
"""Ways to ask, each with its own fields and its own kind of answer."""
_WITH_IDS = ("vllm", "sglang", "tensorrt_llm", "llamacpp")


def ways(engine: Engine) -> dict[str, str]:
    """The paths of an engine that generate, and the way of each.

    >>> from traceprof.engines import engine
    >>> ways(engine("ollama"))
    {'/v1/chat/completions': 'chat', '/api/generate': 'ollama_generate', '/api/chat': 'ollama_chat'}
    """
    found = {}
    for one in engine.endpoints.values():
        if one.dialect == "ollama":
            found[one.path] = "ollama_chat" if one.path.endswith("/chat") else "ollama_generate"
        elif one.dialect == "tgi":
            found |= {one.path: "tgi_stream", one.path.removesuffix("_stream"): "tgi"}
        elif one.dialect in WAYS:
            found[one.path] = one.dialect
    if engine.name == "llamacpp":
        found["/completion"] = "native"
    return found


class Reader:
    """Reads requests as one engine does."""

    def __init__(self, engine: Engine, model: str, prompts: Prompts, context: int) -> None:
        self._engine, self._model, self._prompts, self._context = engine, model, prompts, context
        self._name = engine.name
        self._salts = {one.path: one.salt for one in engine.endpoints.values()}
        self._pins = frozenset(key for one in engine.endpoints.values() for key in one.pin)

    def refusal(self, status: int, message: str, kind: str | None = None, **more: Any) -> Refused:
        """An error in the engine's own shape; `more` goes into it."""
        return Refused(status, error(self._name, status, message, kind, **more))

    def read(self, path: str, way: str, data: bytes) -> Asked:
        """A request; raises Refused where the engine would not take it."""
        body = loaded(data)
        if not isinstance(body, dict):
            raise self.refusal(400, "the body is no JSON object", "invalid_request_error")
        options: Mapping[str, Any] = body
        if way.startswith(("ollama", "tgi")):
            options = body.get("options" if way.startswith("ollama") else "parameters") or {}
        if not isinstance(options, dict):
            raise self.refusal(400, "options are no object", "invalid_request_error")
        model = self._named(body)
        prompt = self._prompt(way, body)
        output, finish = self._length(prompt, way, options)
        if self._name == "ollama":
            prompt = prompt[-max(self._context - output, 1) * TOKEN_BYTES :]  # cut without a word
        usage = body.get("stream_options")
        stream = {"tgi": False, "tgi_stream": True}.get(
            way, bool(body.get("stream", way.startswith("ollama")))
        )
        salt = body.get(self._salts.get(path) or "")
        return Asked(
            way, model, prompt, output, finish, stream, isinstance(usage, dict) and bool(usage.get("include_usage")),
            salt if isinstance(salt, str) else "",
        )  # fmt: skip

    def _named(self, body: Mapping[str, Any]) -> str:
        """The model's name in the answer: some refuse others, some answer whatever is asked for."""
        asked = body.get("model")
        if not isinstance(asked, str) or asked == self._model:
            return self._model
        if self._name == "vllm":
            said = f"The model `{asked}` does not exist. Valid aliases: {self._model}."
            raise self.refusal(404, said, "NotFoundError", param="model")
        if self._name in ("ollama", "mlx_lm"):
            raise self.refusal(404, f"model '{asked}' not found", "not_found_error")
        return asked if self._name == "sglang" else self._model

    def _prompt(self, way: str, body: Mapping[str, Any]) -> bytes:
        field = {
            "chat": "messages", "ollama_chat": "messages", "tgi": "inputs", "tgi_stream": "inputs", "lmdeploy": "input_ids",
        }.get(way, "prompt")  # fmt: skip
        given = body.get(field)
        try:
            if field == "messages":
                if not isinstance(given, list) or not given:
                    raise PromptError(f"'{field}' is required")
                tools = body.get("tools")
                found = self._prompts.chat(given, tools if isinstance(tools, list) else None)
            elif way == "ollama_generate" and not body.get("raw") and isinstance(given, str):
                found = self._prompts.chat([{"role": "user", "content": given}], None)
            else:
                found = self._tokens(way, field, given)
        except PromptError as bad:
            raise self.refusal(400, str(bad), "BadRequestError") from None
        if not found:
            raise self.refusal(400, "the prompt is empty", "BadRequestError")
        return found

    def _tokens(self, way: str, field: str, given: Any) -> bytes:
        """Of a text, of token ids, or of a list of one such."""
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list | str):
            given = given[0]
        if isinstance(given, str):
            return self._prompts.text(given)
        if isinstance(given, list) and (way == "lmdeploy" or self._name in _WITH_IDS):
            try:
                return packed(given)
            except (TypeError, OverflowError):
                raise PromptError(f"'{field}' holds something else than token ids") from None
        raise PromptError(f"'{field}' is required, one a request")

    def _length(self, prompt: bytes, way: str, options: Mapping[str, Any]) -> tuple[int, str]:
        """How many tokens will be generated, and why no more."""
        n = len(prompt) // TOKEN_BYTES
        asked = next((options[key] for key in _KEYS[way] if options.get(key) is not None), None)
        if asked is not None and not (isinstance(asked, int) and not isinstance(asked, bool)):
            raise self.refusal(400, f"{_KEYS[way][-1]} is no number", "BadRequestError")
        if asked is not None and asked <= 0:
            if self._name not in ("llamacpp", "ollama") or not -2 <= asked < 0:
                raise self.refusal(
                    400, f"{_KEYS[way][-1]} must be at least 1, got {asked}. (parameter={_KEYS[way][-1]}, value={asked})",
                    "BadRequestError",
                )  # fmt: skip
            asked = None
        if self._name == "ollama":
            room = self._context - 1
        else:
            self._fits(n, asked)
            room = self._context - n
        if asked is None and "ignore_eos" in self._pins and options.get("ignore_eos"):
            return room, "length"
        least = options.get("min_tokens") if "min_tokens" in self._pins else None
        wanted = asked if asked is not None else max(OUTPUT, least if isinstance(least, int) else 0)
        return min(wanted, room), "length" if asked is not None or wanted >= room else "stop"

    def _fits(self, n: int, asked: int | None) -> None:
        """Raise what the engine says of a prompt, or an answer, that is too long."""
        most, name = self._context, self._name
        if n >= most:
            if name == "sglang":
                raise self.refusal(
                    400, f"The input ({n} tokens) is longer than the model's context length ({most} tokens).", "BadRequestError"
                )  # fmt: skip
            if name == "llamacpp":
                raise self.refusal(
                    400, f"request ({n} tokens) exceeds the available context size ({most} tokens), try increasing it",
                    "exceed_context_size_error", n_prompt_tokens=n, n_ctx=most,
                )  # fmt: skip
            if name == "tgi":
                raise self.refusal(
                    422,
                    f"Input validation error: `inputs` must have less than {most} tokens. Given: {n}",
                    "validation",
                )
            raise self.refusal(
                400,
                f"This model's maximum context length is {most} tokens. However, your prompt contains at least {min(n, most + 1)} input "
                "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={min(n, most + 1)})",
                "BadRequestError", param="input_tokens",
            )  # fmt: skip
        if asked is None or n + asked <= most:
            return
        if name == "tgi":
            raise self.refusal(
                422, f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {most}. Given: {n} `inputs` tokens and "
                f"{asked} `max_new_tokens`", "validation",
            )  # fmt: skip
        if name == "sglang":
            raise self.refusal(
                400, f"Requested token count exceeds the model's maximum context length of {most} tokens. You requested a total of "
                f"{n + asked} tokens: {n} tokens from the input messages and {asked} tokens for the completion.", "BadRequestError",
            )  # fmt: skip
        if name in ("vllm", "tensorrt_llm"):
            raise self.refusal(
                400, f"This model's maximum context length is {most} tokens. However, you requested {asked} output tokens and your "
                f"prompt contains at least {n} input tokens, for a total of at least {n + asked} tokens.", "BadRequestError",
                param="input_tokens",
            )  # fmt: skip


def error(engine: str, status: int, message: str, kind: str | None = None, **more: Any) -> dict[str, Any]:
    """An error in an engine's own shape.

    >>> error("mlx_lm", 400, "no"), error("tgi", 422, "no", "validation")
    ({'error': 'no'}, {'error': 'no', 'error_type': 'validation'})
    """
    shape = MANNERS[engine].errors
    if shape == "text":
        return {"error": message}
    if shape == "tgi":
        return {"error": message, "error_type": kind or "generation"}
    inside = {
        "message": message,
        "type": kind or "invalid_request_error",
        "param": None,
        "code": status,
        **more,
    }
    return {"object": "error", **inside} if shape == "flat" else {"error": inside}


# ---- answers


class Writer:
    """Writes one answer as its engine does: `opening`, `word` by word, `closing`; or `whole`."""

    def __init__(self, engine: str, asked: Asked, number: int) -> None:
        self._engine, self._asked, self._manner = engine, asked, MANNERS[engine]
        self._created = int(time.time())
        self._id = f"{'cmpl' if asked.way == 'completions' else 'chatcmpl'}-{number:016x}"
        self._said: list[str] = []

    @property
    def type(self) -> str:
        """Of the body."""
        if not self._asked.stream:
            return JSON
        return LINES if self._asked.way.startswith("ollama") else SSE

    def framed(self, event: Mapping[str, Any]) -> bytes:
        """One event of a stream."""
        told = orjson.dumps(event)
        return told + b"\n" if self.type == LINES else b"data: " + told + b"\n\n"

    def opening(self) -> bytes:
        """What comes with the first word, before it."""
        if self._asked.way != "chat" or self._manner.opening is None:
            return b""
        content = None if self._manner.opening == "null" else self._manner.opening
        return self.framed(self._choice({"role": "assistant", "content": content}, None))

    def word(self, word: str, told: Told | None) -> bytes:
        """A token of the answer; `told` with the last one."""
        way, manner = self._asked.way, self._manner
        first = not self._said
        self._said.append(word)
        if way == "native":
            return self.framed({"index": 0, "content": word, "tokens": [], "stop": False})
        if way.startswith("ollama"):
            return self.framed(self._ollama(word, False))
        if way == "tgi_stream":
            last = {"generated_text": None, "details": None}
            if told is not None:
                last = {"generated_text": "".join(self._said), "details": self._tgi(told)}  # type: ignore[dict-item]
            return self.framed(
                {"index": 0, "token": {"id": 0, "text": word, "logprob": 0.0, "special": False}, **last}
            )
        if way == "lmdeploy":
            return self.framed({"text": word, "output_ids": [], "meta_info": self._lmdeploy(told)})
        apart = manner.chat_ends_apart if way == "chat" else manner.text_ends_apart
        finish = told.finish if told is not None and not apart else None
        if way == "chat":
            role = (
                {"role": "assistant"}
                if manner.opening is None and (first or self._engine == "mlx_lm")
                else {}
            )
            return self.framed(self._choice({**role, "content": word}, finish))
        return self.framed(self._choice({"text": word}, finish))

    def closing(self, told: Told) -> bytes:
        """What comes after the last word."""
        way, manner, usage = self._asked.way, self._manner, self._asked.usage
        if way == "native":
            return self.framed({"content": "", "stop": True, **self._native(told)})
        if way.startswith("ollama"):
            return self.framed({**self._ollama("", True), **self._ollama_counts(told)})
        if way in ("tgi_stream", "lmdeploy"):
            return b""
        events = []
        timings = {"timings": self._timings(told)} if self._engine == "llamacpp" else {}
        if manner.chat_ends_apart if way == "chat" else manner.text_ends_apart:
            end = self._choice({} if way == "chat" else {"text": ""}, told.finish)
            with_usage = usage and self._engine == "llamacpp" and way == "completions"
            events.append(
                {
                    **end,
                    **({"usage": self._usage(told)} if with_usage else {}),
                    **({} if usage and not with_usage else timings),
                }
            )
            usage = usage and not with_usage
        if usage:
            events.append({**self._choice(None, None), "usage": self._usage(told), **timings})
        return b"".join(map(self.framed, events)) + b"data: [DONE]\n\n"

    def whole(self, text: str, told: Told) -> bytes:
        """The answer at once."""
        way = self._asked.way
        if way == "native":
            found: Any = {"content": text, "stop": True, **self._native(told)}
        elif way.startswith("ollama"):
            found = {**self._ollama(text, True), **self._ollama_counts(told)}
        elif way == "tgi":
            found = {"generated_text": text, "details": {**self._tgi(told), "prefill": [], "tokens": []}}
        elif way == "lmdeploy":
            found = {"text": text, "output_ids": [], "meta_info": self._lmdeploy(told)}
        else:
            said = {"message": {"role": "assistant", "content": text}} if way == "chat" else {"text": text}
            found = {
                "id": self._id, "object": "chat.completion" if way == "chat" else "text_completion", "created": self._created,
                "model": self._asked.model, "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": told.finish}],
                "usage": self._usage(told),
            }  # fmt: skip
            if self._engine == "llamacpp":
                found["timings"] = self._timings(told)
        return orjson.dumps(found)

    def _choice(self, said: Mapping[str, Any] | None, finish: str | None) -> dict[str, Any]:
        """A chunk of a stream; without a choice where nothing is said."""
        chat = self._asked.way == "chat"
        choice = {
            "index": 0,
            **({"delta": said} if chat else said or {}),
            "logprobs": None,
            "finish_reason": finish,
        }
        return {
            "id": self._id, "object": "chat.completion.chunk" if chat else "text_completion", "created": self._created,
            "model": self._asked.model, "choices": [] if said is None else [choice],
        }  # fmt: skip

    def _usage(self, told: Told) -> dict[str, Any]:
        found: dict[str, Any] = {
            "prompt_tokens": told.prompt, "total_tokens": told.prompt + told.output, "completion_tokens": told.output,
        }  # fmt: skip
        if self._manner.cached == "details":
            found["prompt_tokens_details"] = {"cached_tokens": told.cached}
        elif self._manner.cached == "top":
            found["cached_tokens"] = told.cached
        if self._engine == "sglang":
            found["reasoning_tokens"] = 0
        return found

    def _timings(self, told: Told) -> dict[str, Any]:
        computed = told.prompt - told.cached
        return {
            "cache_n": told.cached, "prompt_n": computed, "prompt_ms": told.prompt_s * 1000,
            "prompt_per_second": computed / told.prompt_s if told.prompt_s else None, "predicted_n": told.output,
            "predicted_ms": told.output_s * 1000, "predicted_per_second": told.output / told.output_s if told.output_s else None,
        }  # fmt: skip

    def _native(self, told: Told) -> dict[str, Any]:
        """llama.cpp's /completion."""
        return {
            "model": self._asked.model, "stop_type": "limit" if told.finish == "length" else "eos", "truncated": False,
            "tokens_predicted": told.output, "tokens_evaluated": told.prompt, "tokens_cached": told.prompt + told.output - 1,
            "timings": self._timings(told),
        }  # fmt: skip

    def _ollama(self, word: str, done: bool) -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        chat = self._asked.way == "ollama_chat"
        said = {"message": {"role": "assistant", "content": word}} if chat else {"response": word}
        return {"model": self._asked.model, "created_at": now, **said, "done": done}

    def _ollama_counts(self, told: Told) -> dict[str, Any]:
        """In nanoseconds; the prompt's count is whole, its duration covers what was computed."""
        return {
            "done_reason": told.finish, "total_duration": round(told.total_s * 1e9), "load_duration": 0,
            "prompt_eval_count": told.prompt, "prompt_eval_duration": round(told.prompt_s * 1e9), "eval_count": told.output,
            "eval_duration": round(told.output_s * 1e9),
        }  # fmt: skip

    def _tgi(self, told: Told) -> dict[str, Any]:
        reason = "length" if told.finish == "length" else "eos_token"
        return {
            "finish_reason": reason,
            "generated_tokens": told.output,
            "seed": None,
            "input_length": told.prompt,
        }

    def _lmdeploy(self, told: Told | None) -> dict[str, Any]:
        if told is None:
            return {"finish_reason": None}
        return {
            "finish_reason": {"type": told.finish},
            "prompt_tokens": told.prompt,
            "completion_tokens": told.output,
        }


# ---- counters


def exposition(
    engine: Engine,
    model: str,
    values: Mapping[str, float],
    settings: Mapping[str, int],
    finished: Mapping[str, int],
) -> bytes:
    """The engine's counters under its own names: `values` by meaning, `settings` of its cache, requests by why they ended."""
    telemetry = engine.telemetry
    assert telemetry is not None
    lines: list[str] = []
    model_name = {} if engine.name == "llamacpp" else {"model_name": model}
    for meaning, choices in telemetry.series.items():
        series = choices[0]
        labels = {**model_name, **{name: one[0] for name, one in series.labels.items()}}
        value = values[meaning]
        if meaning == "prompt_tokens" and telemetry.prompt_excludes_cached:
            value -= values["cached_tokens"]
        name = series.name.removesuffix("_sum")
        kind = "gauge" if meaning in GAUGES else "counter" if name == series.name else "histogram"
        if any(line.startswith(f"# TYPE {name} ") for line in lines):  # two meanings of one series
            continue
        lines.append(f"# TYPE {name} {kind}")
        if meaning == "requests" and engine.name == "vllm":
            lines += [
                _line(series.name, {**labels, "finished_reason": why}, finished.get(why, 0))
                for why in ("stop", "length")
            ]
            continue
        lines.append(_line(series.name, labels, value))
        if kind == "histogram":
            lines.append(_line(f"{name}_count", labels, values["requests"]))
    block, tokens = settings["block"], settings["capacity"]
    if engine.name == "vllm":
        told = {
            "block_size": str(block),
            "num_gpu_blocks": str(tokens // block),
            "kv_cache_size_tokens": str(tokens // block * block),
        }
        lines += ["# TYPE vllm:cache_config_info gauge", _line("vllm:cache_config_info", told, 1)]
    for name, value in {
        "sglang": {"sglang:max_total_num_tokens": tokens},
        "tensorrt_llm": {"trtllm_kv_cache_max_blocks": tokens // block, "trtllm_kv_cache_tokens_per_block": block},
        "tgi": {"tgi_batch_max_total_tokens": tokens},
    }.get(engine.name, {}).items():  # fmt: skip
        lines += [f"# TYPE {name} gauge", _line(name, model_name, value)]
    return ("\n".join(lines) + "\n").encode()


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = Sample(name, tuple(labels.items()), value).key
    return f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


# ---- pages


def pages(
    engine: Engine, model: str, version: str, settings: Mapping[str, int]
) -> Iterator[tuple[str, str, bytes]]:
    """(path, type, body) of what is asked by GET and never changes."""
    name, context, tokens = engine.name, settings["context"], settings["capacity"]
    listed: dict[str, Any] = {
        "id": model, "object": "model", "created": int(time.time()), "owned_by": MANNERS[name].owner,
    }  # fmt: skip
    if name in ("vllm", "sglang"):
        listed["max_model_len"] = context
    if name == "llamacpp":
        listed["meta"] = {"n_ctx": context}
    yield "/v1/models", JSON, orjson.dumps({"object": "list", "data": [listed]})
    found: dict[str, dict[str, Any]] = {
        "vllm": {"/health": b"", "/version": {"version": version}, "/ping": b""},
        "sglang": {
            "/health": b"", "/ready": b"",
            "/server_info": {"version": version, "max_total_num_tokens": tokens, "page_size": settings["block"], "context_length": context},
        },
        "tensorrt_llm": {"/health": b"", "/version": {"version": version}},
        "tgi": {
            "/health": b"",
            "/info": {
                "model_id": model, "version": version, "max_total_tokens": context, "max_batch_total_tokens": tokens,
                "max_concurrent_requests": settings["slots"],
            },
        },
        "lmdeploy": {"/health": b""},
        "llamacpp": {
            "/health": {"status": "ok"}, "/v1/health": {"status": "ok"},
            "/props": {
                "default_generation_settings": {"n_ctx": context}, "total_slots": settings["slots"], "model_alias": model,
                "build_info": version,
            },
        },
        "ollama": {
            "/": b"Ollama is running", "/api/version": {"version": version},
            "/api/tags": {"models": [{"name": model, "model": model}]}, "/api/ps": {"models": [{"name": model, "model": model}]},
        },
        "mlx_lm": {"/health": {"status": "ok"}},
        "vllm_mlx": {"/health": {"status": "healthy", "model_loaded": True, "engine_type": "batched", "model_name": model}},
        "omlx": {"/health": {"status": "healthy", "engine_pool": {"model_count": 1, "loaded_count": 1}}},
    }  # fmt: skip
    for path, body in found[name].items():
        yield (
            path,
            PLAIN if isinstance(body, bytes) else JSON,
            body if isinstance(body, bytes) else orjson.dumps(body),
        )
