"""Text completions in the native bodies of single model families on Bedrock: Llama, Titan, Cohere, Mistral, Claude 2, Jurassic.

They say little about themselves, so they are read only where the log says that the call was an InvokeModel; chat bodies of these
families are those of OpenAI, Anthropic or Converse. Source: AWS docs, inference parameters of foundation models.
"""

from __future__ import annotations

from typing import Any

from traceprof.bodies import openai
from traceprof.formats.base import Request, count, dumps, finish, first_of

_PROMPT = ("prompt", "inputText")
_LIMIT = ("max_gen_len", "maxTokenCount", "max_tokens", "max_tokens_to_sample", "maxTokens")
_ANSWERS = ("results", "generations", "outputs", "completions", "choices")
_SAID = ("generation", "outputText", "completion", "text")
_WHY = ("stop_reason", "completionReason", "finish_reason", "finishReason")
_FINISH = {"FINISH": "stop", "COMPLETE": "stop", "endoftext": "stop", "LENGTH": "length", "MAX_TOKENS": "length",
           "CONTENT_FILTERED": "content_filter", "ERROR_TOXIC": "content_filter"}  # fmt: skip
_ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system"}


def is_request(body: dict[str, Any]) -> bool:
    """A prompt, or Cohere's message with what was said before."""
    return any(isinstance(body.get(key), str) for key in (*_PROMPT, "message"))


def join(chunks: list[Any]) -> dict[str, Any]:
    """One answer of a stream's pieces: texts one after another, counts and reason of the last piece that has them."""
    said: list[str] = []
    out: dict[str, Any] = {}
    for chunk in chunks:
        if isinstance(chunk, dict):
            text, _ = _answer(chunk)
            said.append(text or "")
            out.update({k: v for k, v in chunk.items() if v is not None})
    return {**{k: v for k, v in out.items() if k not in (*_ANSWERS, *_SAID)}, "text": "".join(said)}


def read_request(out: Request, body: dict[str, Any]) -> None:
    """Fill prompt, tools and parameters."""
    given = body.get("textGenerationConfig")
    options = {**body, **given} if isinstance(given, dict) else body
    prompt = first_of(body, _PROMPT)
    if isinstance(prompt, str):
        out.operation, out.prompt_text = "text", prompt
    else:
        out.operation = "chat"
        out.messages_json = dumps([*_before(body), {"role": "user", "content": body["message"]}])
    out.max_output_tokens = count(first_of(options, _LIMIT), "max_tokens", out.quality)
    out.params = openai.params(
        {
            "temperature": options.get("temperature"),
            "top_p": first_of(options, ("top_p", "topP", "p")),
            "top_k": first_of(options, ("top_k", "topK", "k")),
            "stop": first_of(options, ("stop_sequences", "stopSequences", "stop")),
        }
    )


def _before(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Cohere's preamble and history as messages."""
    history = body.get("chat_history")
    turns = [t for t in history if isinstance(t, dict)] if isinstance(history, list) else []
    out = [
        {"role": _ROLES.get(str(t.get("role")), "user"), "content": t["message"]}
        for t in turns
        if isinstance(t.get("message"), str)
    ]
    if isinstance(body.get("preamble"), str):
        out.insert(0, {"role": "system", "content": body["preamble"]})
    return out


def read_response(out: Request, body: dict[str, Any]) -> None:
    """Fill output, finish reason and the counts that the answer itself gives."""
    said, why = _answer(body)
    if said is None:
        return
    out.output_json = dumps({"role": "assistant", "content": said})
    out.finish_reason = finish(_FINISH.get(str(why), why))
    out.status = "ok"
    results = body.get("results")
    first = results[0] if isinstance(results, list) and results and isinstance(results[0], dict) else {}
    written = first_of(body, ("generation_token_count", "totalOutputTextTokenCount"))
    openai.read_usage(
        out,
        {
            "prompt_tokens": first_of(body, ("prompt_token_count", "inputTextTokenCount")),
            "completion_tokens": first.get("tokenCount") if written is None else written,
        },
    )


def _answer(body: dict[str, Any]) -> tuple[str | None, Any]:
    """(text, reason for its end) of an answer, at the top or in its first element."""
    several = first_of(body, _ANSWERS)
    first = several[0] if isinstance(several, list) and several else body
    first = first if isinstance(first, dict) else {}
    said = first_of(first, _SAID)
    if isinstance(first.get("data"), dict):  # Jurassic
        said = first["data"].get("text")
    why = first_of(first, _WHY)
    if isinstance(why, dict):
        why = why.get("reason")
    return said if isinstance(said, str) else None, first_of(body, _WHY) if why is None else why
