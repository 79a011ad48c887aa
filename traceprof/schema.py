"""Every column of every file that traceprof writes, declared once: name, Arrow type, unit, meaning.

Readers, writers, docs and the published JSON Schemas derive from these tables. Sizes are bytes, `_us` is
microseconds, ratios are 0..1. Null means that the log does not say.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

TRACE_SCHEMA_VERSION = 1
PROFILE_SCHEMA_VERSION = 1
WORKLOAD_SCHEMA_VERSION = 1
RESULTS_SCHEMA_VERSION = 1

_TS = pa.timestamp("us", "UTC")
_STR = pa.string()
_DICT = pa.dictionary(pa.int32(), pa.string())
_MEDIA = pa.list_(
    pa.struct([("kind", pa.string()), ("count", pa.int32()), ("bytes", pa.int64()), ("hash", pa.uint64())])
)
_PARAMS = pa.struct(
    [
        ("temperature", pa.float32()),
        ("top_p", pa.float32()),
        ("top_k", pa.int32()),
        ("n", pa.int16()),
        ("seed", pa.int64()),
        ("stop_count", pa.int16()),
        ("response_format", pa.string()),
        ("tool_choice", pa.string()),
        ("reasoning_effort", pa.string()),
    ]
)


class Column(NamedTuple):
    """One column: its name, Arrow type, whether it may be null, and what it means (unit first)."""

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str


def _c(name: str, type_: pa.DataType, meaning: str, nullable: bool = True) -> Column:
    return Column(name, type_, nullable, meaning)


REQUESTS: tuple[Column, ...] = (
    # provenance
    _c("row_id", _STR, "stable id of the row: hash of source file, source row and request id", False),
    _c("source_format", _DICT, "the --format name of the reader that made the row", False),
    _c("source_file", _DICT, "file the record came from, relative to what was given on the command line", False),
    _c("source_row", pa.int64(), "line (text) or element (JSON, CSV) of the record in that file, from 1", False),
    _c("adapter_version", pa.int16(), "version of the reader's rules", False),
    _c("sampling_fraction", pa.float32(), "share of the traffic that the source kept, when it says so"),
    _c("quality", pa.list_(pa.string()), "flags: what was derived, assumed or repaired in this row", False),
    # identity
    _c("request_id", _STR, "the client's or gateway's id; the row_id where the log gives none", False),
    _c("provider_request_id", _STR, "id made by the model server"),
    _c("attempt_group", _STR, "shared by the retries and fallbacks of one logical request"),
    _c("attempt_no", pa.int16(), "0 for the first attempt"),
    _c("session_id", _STR, "conversation the request belongs to"),
    _c("session_kind", _DICT, "explicit, affinity_key, trace or file: where session_id comes from"),
    _c("parent_request_id", _STR, "request whose answer this one continues"),
    _c("trace_id", _STR, "distributed trace or agent run"),
    _c("turn_index", pa.int32(), "turn within the session, from 0"),
    _c("tenant_id", _STR, "API key, team, account or subscription"),
    _c("user_id", _STR, "end user"),
    _c("app", _DICT, "client application"),
    # what was called
    _c("operation", _DICT, "chat, text, responses, or other", False),
    _c("model_requested", _DICT, "name the client asked for"),
    _c("model_served", _DICT, "name of what answered"),
    _c("provider", _DICT, "API family or provider"),
    _c("stream", pa.bool_(), "whether the answer was streamed"),
    # time
    _c("arrival_ts", _TS, "UTC; when the request arrived (null for relative clocks)"),
    _c("first_token_ts", _TS, "UTC; first output token (null unless measured)"),
    _c("end_ts", _TS, "UTC; end of the answer"),
    _c("arrival_offset_us", pa.int64(), "us since the first arrival of the trace (since the session's own start for clock session)"),
    _c("clock", _DICT, "absolute, relative, session (each session has its own zero), order_only or none", False),
    _c("arrival_quality", _DICT, "measured, derived, attempt_start, log_time, none", False),
    _c("arrival_resolution_us", pa.int64(), "us; burst statistics below it are meaningless"),
    _c("queue_us", pa.int64(), "us waiting in the server's queue, as reported"),
    _c("ttft_us", pa.int64(), "us from arrival to first token, as reported"),
    _c("e2e_us", pa.int64(), "us from arrival to end, as reported"),
    _c("delay_after_parent_us", pa.int64(), "us of think or tool time after the previous turn ended"),
    # outcome
    _c("status", _DICT, "ok, error, cancelled, rejected, incomplete or unknown", False),
    _c("http_status", pa.int16(), "HTTP status code"),
    _c("error_type", _STR, "type or code of the error, never its message"),
    _c("finish_reason", _DICT, "stop, length, tool_calls, content_filter, refusal, abort or other"),
    _c("served_from_response_cache", pa.bool_(), "answered by a gateway's response cache: no engine saw it"),
    # tokens as the log counts them
    _c("input_tokens", pa.int32(), "whole prompt, cached and cache-written part included"),
    _c("cached_input_tokens", pa.int32(), "part of the prompt served from a prefix cache; 0 = reported zero"),
    _c("cache_write_tokens", pa.int32(), "part of the prompt written to a provider's cache"),
    _c("output_tokens", pa.int32(), "generated tokens, reasoning included"),
    _c("reasoning_tokens", pa.int32(), "generated tokens that the user does not see"),
    _c("tokens_source", _DICT, "usage (the log's own), trace, counted"),
    _c("max_output_tokens", pa.int32(), "limit the client set"),
    # prefix identity
    _c("tokenizer", _DICT, "tokenizer of ids that the log itself holds"),
    _c("block_size", pa.int32(), "tokens a block hash of the log stands for"),
    _c("hash_scheme", _DICT, "how the log's block hashes were made"),
    _c("hash_scope", _STR, "hashes are comparable only within one scope"),
    _c("last_block_partial", pa.bool_(), "true: the last, partial block has a hash (ceil); false: it has none (floor)"),
    _c("cache_salt", _STR, "isolation domain of the engine's prefix cache"),
    _c("media", _MEDIA, "images, audio and files in the prompt"),
    # completeness
    _c("content_level", _DICT, "what identifies the prompt: text, tokens, hashes or lengths", False),
    _c("content_state", _DICT, "complete, truncated, redacted, partial_history or absent", False),
    _c("params", _PARAMS, "sampling parameters"),
)  # fmt: skip

CONTENT: tuple[Column, ...] = (
    _c("row", pa.int32(), "position of the request in the requests part of the same name, from 0", False),
    _c("request_id", _STR, "as in requests", False),
    _c("session_id", _STR, "as in requests"),
    _c("messages_json", pa.large_string(), "OpenAI-like messages, keys and parts in their original order; media as {type, sha, bytes}"),
    _c("prompt_text", pa.large_string(), "the prompt as sent, where the log has it rendered"),
    _c("tools_json", pa.large_string(), "tool definitions in their original order"),
    _c("output_json", pa.large_string(), "the answer: an assistant message, or a list of them for several choices"),
    _c("extra_json", pa.large_string(), "scalar fields of the record that have no column"),
)  # fmt: skip

TOKENS: tuple[Column, ...] = (
    _c("request_id", _STR, "as in requests; row i here is row i of the requests part of the same name", False),
    _c("input_ids", pa.list_(pa.field("element", pa.uint32(), False)), "token ids of the whole prompt"),
    _c("output_ids", pa.list_(pa.field("element", pa.uint32(), False)), "token ids generated; null when unknown"),
    _c("block_hashes", pa.list_(pa.field("element", pa.uint64(), False)), "prefix-chained block ids of the log"),
    _c("output_hashes", pa.list_(pa.field("element", pa.uint64(), False)), "hashes of the blocks that prompt and output fill together behind the prompt's own, where block_hashes were made under a key"),
    _c("block_size", pa.int32(), "tokens a block hash stands for"),
    _c("input_symbols", pa.int32(), "ids or hashes of the prompt, so that lengths can be read without them"),
    _c("output_symbols", pa.int32(), "ids or hashes of the output"),
    _c("input_length", pa.int32(), "tokens of the prompt, where hashes were made of token ids"),
    _c("output_length", pa.int32(), "tokens of the output, where hashes were made of token ids"),
)  # fmt: skip

REJECTS: tuple[Column, ...] = (
    _c("source_file", _STR, "file the record came from", False),
    _c("source_row", pa.int64(), "line or element in that file, from 1", False),
    _c("source_format", _STR, "reader that refused it", False),
    _c("reason", _STR, "why, as one word that can be counted", False),
    _c("detail", _STR, "why, in words", False),
    _c(
        "raw",
        pa.large_string(),
        "the record as it stands in the file; null when it is too large to keep, or stands at a reject of it before",
    ),
)

PROFILE_REQUESTS: tuple[Column, ...] = (
    _c("request_id", _STR, "as in the trace", False),
    _c("input_tokens", pa.int64(), "tokens of the prompt under the profile's tokenizer", False),
    _c("hit_tokens_1", pa.int64(), "of them, known to a cache that holds every earlier prompt"),
    *(
        _c(
            f"hit_tokens_{b}",
            pa.int64(),
            f"the same, rounded down to blocks of {b}; null if the trace cannot tell",
        )
        for b in (16, 32, 64, 128, 256, 512)
    ),
    _c(
        "hit_tokens_1_with_outputs",
        pa.int64(),
        "hit tokens when outputs of ended requests are in the cache too",
    ),
)
MRC: tuple[Column, ...] = (
    _c("capacity_tokens", pa.int64(), "size of an LRU prefix cache, in tokens", False),
    _c("hit_tokens", pa.int64(), "tokens it would have served over the whole trace", False),
)
CONCURRENCY: tuple[Column, ...] = (
    _c("offset_s", pa.float64(), "start of the bin, seconds since the first arrival", False),
    _c("in_flight_mean", pa.float64(), "time-weighted mean of requests in flight"),
    _c("in_flight_peak", pa.int64(), "most requests in flight at once"),
    _c("arrivals", pa.int64(), "requests that arrived in the bin", False),
)
PREFIXES: tuple[Column, ...] = (
    _c("tokens", pa.int64(), "length of the shared prefix", False),
    _c("requests", pa.int64(), "requests that begin with it", False),
    _c("saved_tokens", pa.int64(), "(requests - 1) x tokens", False),
    _c("model", _STR, "model the requests went to"),
    _c("preview", _STR, "its first characters; null unless the trace holds text"),
)

WORKLOAD: tuple[Column, ...] = (
    _c("index", pa.int64(), "position in the workload, from 0: the order of arrival", False),
    _c("request_id", _STR, "request of the trace that it stands for: what pairs runs of one workload", False),
    _c("session_id", _STR, "session; its requests are sent by one process"),
    _c("turn_index", pa.int32(), "turn within the session, from 0", False),
    _c("parent", pa.int64(), "index of the turn before, in this workload; null for a first turn"),
    _c("arrival_us", pa.int64(), "us since the workload's start at which it is to be sent; never falls", False),
    _c("think_us", pa.int64(), "us from the end of the turn before to this arrival, as recorded; null for a first turn or where an end is not known"),
    _c("recorded_e2e_us", pa.int64(), "us that the request took in the trace"),
    _c("warmup", pa.bool_(), "sent, but in no figure", False),
    _c("model", _DICT, "model that the trace's client asked for"),
    _c("tenant_id", _STR, "tenant"),
    _c("cache_salt", _STR, "isolation domain of the engine's prefix cache"),
    _c("endpoint", _DICT, "chat (messages), completions (text) or ids (token ids)", False),
    _c("messages_json", pa.large_string(), "OpenAI chat messages"),
    _c("tools_json", pa.large_string(), "OpenAI tool definitions"),
    _c("prompt_text", pa.large_string(), "the prompt as text"),
    _c("prompt_ids", pa.list_(pa.field("element", pa.uint32(), False)), "the prompt as token ids"),
    _c("input_tokens", pa.int32(), "tokens of the prompt under the workload's tokenizer", False),
    _c("output_tokens", pa.int32(), "tokens that are to be generated; null: the engine decides"),
    _c("params_json", _STR, "sampling parameters as OpenAI fields"),
    _c("block_hashes", pa.list_(pa.field("element", pa.uint64(), False)), "what the prompt's blocks were in the trace, where it holds hashes"),
    _c("prefix_of", pa.int64(), "index of an earlier request, of the same engine and salt, that begins with the longest run of the same tokens; null: none does"),
    _c("prefix_tokens", pa.int32(), "length of that run: what a cache that forgets nothing has of the prompt; null: not known"),
)  # fmt: skip

RESULT_REQUESTS: tuple[Column, ...] = (
    _c("index", pa.int64(), "row of the workload", False),
    _c("request_id", _STR, "as in the workload", False),
    _c("session_id", _STR, "as in the workload"),
    _c("warmup", pa.bool_(), "in no figure", False),
    _c("attempt", pa.int16(), "0 for the first; more only where retries were asked for", False),
    _c("final", pa.bool_(), "no other attempt was to follow"),
    _c("scheduled_us", pa.int64(), "us since the run's start: the workload's arrival, scaled", False),
    _c("intended_us", pa.int64(), "when it was to be sent: scheduled, or later where the turn before ended late; latencies count from here", False),
    _c("taken_up_us", pa.int64(), "when the client took it up: to connect, or to wait for one of --max-connections, stands between this and sent"),
    _c("sent_us", pa.int64(), "when its first byte was written; null: never"),
    _c("first_byte_us", pa.int64(), "first byte of the answer"),
    _c("first_token_us", pa.int64(), "first non-empty content, reasoning or tool delta"),
    _c("last_token_us", pa.int64(), "last of them"),
    _c("end_us", pa.int64(), "end of the answer, or of the attempt", False),
    _c("chunk_us", pa.list_(pa.field("element", pa.int64(), False)), "when each chunk with content was received, us since the run's start"),
    _c("chunk_chars", pa.list_(pa.field("element", pa.int32(), False)), "characters of each of them"),
    _c("outcome", _DICT, "ok, http_error, stream_error, malformed, empty, refused, reset, tls, timeout, stalled or cancelled", False),
    _c("http_status", pa.int16(), "HTTP status code"),
    _c("error_type", _STR, "type or code of the error, never its message"),
    _c("finish_reason", _DICT, "as the engine says"),
    _c("input_tokens", pa.int32(), "prompt tokens, as the engine says"),
    _c("output_tokens", pa.int32(), "generated tokens"),
    _c("reasoning_tokens", pa.int32(), "of them, hidden from the user"),
    _c("cached_tokens", pa.int32(), "prompt tokens served from the prefix cache, as the engine says"),
    _c("cached_state", _DICT, "told, null or absent: whether the engine said so", False),
    _c("predicted_cached_tokens", pa.int32(), "what the model of its cache has, fed with the requests at the times at which they were sent"),
    _c("tokens_source", _DICT, "usage (the engine's), counted (our tokenizer) or none", False),
    _c("bytes_sent", pa.int64(), "bytes of the request", False),
    _c("bytes_received", pa.int64(), "bytes of the answer", False),
    _c("output_hash", pa.uint64(), "hash of the answer's text, so that engines' answers can be compared"),
    _c("output_text", pa.large_string(), "the answer; null unless it was asked to keep it"),
)  # fmt: skip

RESULT_SCRAPES: tuple[Column, ...] = (
    _c("at_us", pa.int64(), "us since the run's start at which the answer came; negative before", False),
    _c("phase", _DICT, "before, during or after", False),
    _c("name", _DICT, "Prometheus name of the sample", False),
    _c("labels", _STR, "its labels as in the exposition, sorted", False),
    _c("value", pa.float64(), "its value", False),
)

RESULT_GPU: tuple[Column, ...] = (
    _c("at_us", pa.int64(), "us since the run's start", False),
    _c("gpu", pa.int16(), "number of the device", False),
    _c("utilization", pa.float32(), "share of the last interval in which a kernel ran"),
    _c("memory_bytes", pa.int64(), "memory in use"),
    _c("power_w", pa.float32(), "power drawn"),
)

FILES: dict[str, tuple[Column, ...]] = {
    "trace/requests": REQUESTS,
    "trace/content": CONTENT,
    "trace/tokens": TOKENS,
    "trace/rejects": REJECTS,
    "profile/requests": PROFILE_REQUESTS,
    "profile/mrc": MRC,
    "profile/concurrency": CONCURRENCY,
    "profile/prefixes": PREFIXES,
    "workload": WORKLOAD,
    "results/requests": RESULT_REQUESTS,
    "results/scrapes": RESULT_SCRAPES,
    "results/gpu": RESULT_GPU,
}


def arrow(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a file's columns."""
    return pa.schema([pa.field(c.name, c.type, c.nullable, {"meaning": c.meaning}) for c in columns])
