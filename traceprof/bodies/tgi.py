"""Native bodies of text-generation-inference (also of SageMaker's TGI and LMI containers): a rendered prompt in, text out.

`{inputs, parameters}` is answered by `{generated_text, details}`, alone or as the only element of a list; a stream's chunks
hold a `token` each. Bodies name no model, and the prompt's tokens are known only by `prefill` (with decoder_input_details) or
`input_length` (streams). Source: huggingface/text-generation-inference db931fcf, router/src/lib.rs.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import BadRecord, Request, count, dumps, finish

_PARAMETERS = frozenset(
    ("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p", "do_sample",
     "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details", "decoder_input_details", "seed",
     "top_n_tokens", "grammar")
)  # fmt: skip


def is_request(body: dict[str, Any]) -> bool:
    """Inputs as text, and parameters of a generation or a wish to stream; inputs alone may ask for an embedding."""
    if not isinstance(body.get("inputs"), str) or "model" in body:
        return False
    given = body.get("parameters")
    return "stream" in body or (isinstance(given, dict) and not given.keys().isdisjoint(_PARAMETERS))


def is_response(body: dict[str, Any]) -> bool:
    """A generated text."""
    return "generated_text" in body and "choices" not in body


def is_chunk(chunk: dict[str, Any]) -> bool:
    """One token of a stream; the last one comes with the whole text."""
    return isinstance(chunk.get("token"), dict)


def join(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of a stream's tokens; the text of a cut one is that of its tokens, special ones left out."""
    said: list[str] = []
    tokens: list[Any] = []
    out: dict[str, Any] = {"generated_text": None, "details": {}}
    for chunk in chunks:
        if chunk.get("error") is not None:
            out["error"] = chunk["error"]
        token = chunk.get("token")
        if isinstance(token, dict):
            tokens.append(token)
            if isinstance(token.get("text"), str) and token.get("special") is not True:
                said.append(token["text"])
        if isinstance(chunk.get("generated_text"), str):
            out["generated_text"] = chunk["generated_text"]
        if isinstance(chunk.get("details"), dict):
            out["details"] = dict(chunk["details"])
    if out["generated_text"] is None:
        out["generated_text"] = "".join(said)
    out["details"]["tokens"] = tokens
    return out


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill prompt and parameters; `truncate` lets the server cut the prompt's beginning, unseen by the client."""
    out.operation = "text"
    prompt = body.get("inputs")
    if not isinstance(prompt, str):
        raise BadRecord("wrong_type", f"inputs is a {type(prompt).__name__}, not text")
    out.prompt_text = prompt
    if isinstance(body.get("stream"), bool):
        out.stream = body["stream"]
    given = body.get("parameters")
    if not isinstance(given, dict):
        return
    out.max_output_tokens = count(given.get("max_new_tokens"), "max_new_tokens", out.quality)
    grammar = given.get("grammar")
    shape = {"type": grammar.get("type")} if isinstance(grammar, dict) else None
    out.params = openai.params({**given, "response_format": shape})
    if given.get("truncate") is not None:
        out.quality.append("engine_may_truncate")


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill output, finish reason and counts from an answer, or the kind of an error."""
    kind = body.get("error_type")
    if isinstance(kind, str):
        out.error_type = kind or None
    said = body.get("generated_text")
    if not isinstance(said, str):
        return
    out.output_json = dumps({"role": "assistant", "content": said})
    out.status = "ok"
    details = body.get("details")
    if not isinstance(details, dict):
        return
    out.finish_reason = finish(details.get("finish_reason"))
    out.output_tokens = count(details.get("generated_tokens"), "generated_tokens", out.quality)
    out.input_tokens = count(details.get("input_length"), "input_length", out.quality)
    out.input_ids = _ids(details.get("prefill"))
    out.output_ids = _ids(details.get("tokens"))
    if out.input_tokens is None and out.input_ids:
        out.input_tokens = len(out.input_ids)
    if out.input_tokens is not None or out.output_tokens is not None:
        out.tokens_source = "usage"


def _ids(tokens: Any) -> list[int] | None:
    """The ids of a list of tokens; None unless each has one."""
    if not isinstance(tokens, list) or not tokens:
        return None
    ids: list[Any] = [token.get("id") if isinstance(token, dict) else None for token in tokens]
    return ids if openai.is_ids(ids) else None
