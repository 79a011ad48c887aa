"""trace -> trace that may leave the machine: no text, ids pseudonymized under a key that stays outside, prompts as token ids or keyed hashes.

    level    prompts and answers         ids of requests, sessions, tenants, users    text
    text     messages as logged          as logged                                    yes
    tokens   token ids                   pseudonyms                                   no (but ids can be decoded)
    hashes   keyed hashes of blocks      pseudonyms                                   no

What each column becomes is declared once, in `KEPT`; a column that stands nowhere there is emptied.
docs/privacy.md says what this protects against, and what it does not.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from traceprof import schema
from traceprof.errors import TraceprofError, UsageError
from traceprof.prefix.blocks import SCHEME, block_hashes, rehashed
from traceprof.runs import footer, write_tokens
from traceprof.tokens import METADATA, flat
from traceprof.trace import KINDS, MANIFEST, Trace, staged, write_json
from traceprof.workers import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = ("text", "tokens", "hashes")
UNIT = 16  # tokens a block: vLLM's default, and a divisor of every block size that is profiled
KEY_BYTES = 32
WITHHELD = "withheld"
_PLAIN = re.compile(r"(?!/)(?!.*(?://|@))[\w.:+/-]{1,100}")  # a name that may be kept as it is
_WORDS = {
    "response_format": {"text", "json_object", "json_schema"},
    "tool_choice": {"auto", "none", "required", "any", "named"},
    "reasoning_effort": {"none", "minimal", "low", "medium", "high", "xhigh"},
}

# how a column of requests/ is kept, where it is no number, time or flag
KEPT: dict[str, str] = {
    "row_id": "pseudonym row", "request_id": "pseudonym request", "provider_request_id": "pseudonym request",
    "parent_request_id": "pseudonym request", "attempt_group": "pseudonym request", "session_id": "pseudonym session",
    "trace_id": "pseudonym trace", "tenant_id": "pseudonym tenant", "user_id": "pseudonym user", "app": "pseudonym app",
    "cache_salt": "pseudonym salt", "hash_scope": "pseudonym scope",
    "source_file": "number",
    "model_requested": "name", "model_served": "name", "provider": "name", "tokenizer": "name", "error_type": "name",
    "hash_scheme": "name",
    "source_format": "word", "session_kind": "word", "operation": "word", "clock": "word", "arrival_quality": "word",
    "status": "word", "finish_reason": "word", "tokens_source": "word", "content_level": "word", "content_state": "word",
    "quality": "word", "params": "word", "media": "rehashed",
}  # fmt: skip


class Key:
    """The secret under which ids and blocks are hashed; whoever has it can test guesses, so it stays outside the trace."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.blocks = self._derive(b"blocks", b"", 16)
        self.id = self._derive(b"id", b"", 4).hex()  # tells whether two traces were made under one key

    @classmethod
    def random(cls) -> Key:
        """A key that is forgotten when the process ends: nothing can be joined with another trace."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def file(cls, path: str | os.PathLike[str]) -> Key:
        """The key that a file holds as hexadecimal digits; a new file with a new key where there is none."""
        path = Path(path)
        try:
            with contextlib.suppress(FileExistsError), open(path, "x", opener=_for_me_alone) as new:
                new.write(secrets.token_hex(KEY_BYTES) + "\n")
            words = path.read_text("ascii").strip()
            secret = bytes.fromhex(words)
        except OSError as bad:
            raise TraceprofError(
                f"no key can be kept there: {bad.strerror}", path=path, remedy="give another --key FILE"
            ) from None
        except ValueError:
            secret = b""
        if not 16 <= len(secret) <= 64:  # what BLAKE2b takes as a key
            raise TraceprofError(
                "not a key of traceprof",
                path=path,
                remedy=f"a key is {2 * KEY_BYTES} hexadecimal digits; name a new file to have one made",
            )
        return cls(secret)

    def _derive(self, what: bytes, value: bytes, size: int) -> bytes:
        return hashlib.blake2b(value, key=self._secret, person=b"tp." + what, digest_size=size).digest()

    def pseudonym(self, domain: str, value: str) -> str:
        """16 hexadecimal digits that stand for a value: BLAKE2b under the key, apart for each domain."""
        return self._derive(domain.encode(), value.encode("utf-8", "replace"), 8).hex()


def _for_me_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _Sealer(NamedTuple):
    """How the parts of one trace are rewritten."""

    level: str
    key: Key
    unit: int
    files: dict[str, str]  # source file -> what stands for it


def protect(
    trace: Trace,
    out: str | os.PathLike[str],
    level: str,
    key: Key | None = None,
    *,
    unit: int = UNIT,
    progress: Progress | None = None,
) -> Trace:
    """Write the trace without its text to `out`, at privacy level `tokens` or `hashes` (of blocks of `unit` tokens).

    Requests whose text was not tokenized keep their lengths. Raises UsageError for a level below the trace's own, and
    TraceprofError when its text has no tokens yet.
    """
    if level not in LEVELS[1:]:
        raise UsageError(f"no privacy level {level!r}", remedy="one of: tokens, hashes")
    if LEVELS.index(trace.manifest["privacy"]) > LEVELS.index(level):
        raise UsageError(f"the trace holds {trace.manifest['privacy']} only", remedy="ingest the log again")
    if trace.parts("content") and not trace.parts("tokens") and _has_text(trace):
        raise TraceprofError(
            "the trace has text but no tokens yet", path=trace.path, remedy="run traceprof tokenize"
        )
    say = progress or (lambda what, done, total: None)
    key = key or Key.random()
    manifest = trace.manifest
    names = [s["file"] for s in manifest["sources"]]
    sealer = _Sealer(level, key, unit, {name: f"file-{i:05}" for i, name in enumerate(names, 1)})
    with staged(out, mine=MANIFEST) as stage:
        parts = trace.parts("requests")
        for kind in ("requests", *(["tokens"] if trace.parts("tokens") else [])):
            (stage / kind).mkdir()
        for done, part in enumerate(parts, 1):
            _part(part, stage, sealer)
            say("protect", done, len(parts))
        if trace.parts("rejects"):
            (stage / "rejects").mkdir()
            for part in trace.parts("rejects"):
                _rejects(part, stage / "rejects" / part.name, sealer)
        write_json(stage / MANIFEST, _manifest(manifest, sealer))
    return Trace(out)


def _has_text(trace: Trace) -> bool:
    levels = trace.scan("requests").select("content_level").collect().to_series()
    return bool((levels == "text").any())


def _manifest(manifest: dict[str, Any], sealer: _Sealer) -> dict[str, Any]:
    """The trace's manifest with its counts, and without names of files."""
    hashed: dict[str, Any] = {"key_id": sealer.key.id}
    if sealer.level == "hashes":
        hashed |= {"scheme": SCHEME, "block_size": sealer.unit}
    sources = [
        {**s, "file": sealer.files[s["file"]], "detected_by": s["detected_by"] if s["format"] else WITHHELD}
        for s in manifest["sources"]
    ]
    return {
        **manifest,
        "privacy": sealer.level,
        "protection": hashed,
        "inputs": ["(names withheld)"],
        "sources": sources,
    }


# -- one part ------------------------------------------------------------------------------------------------


def _part(part: Path, stage: Path, sealer: _Sealer) -> None:
    requests = pq.read_table(part)
    given = part.parent.parent / "tokens" / part.name
    tokens = pq.read_table(given) if given.exists() else None
    if tokens is not None:
        metadata = dict(pq.read_schema(given).metadata or {})
        requests = _relabelled(tokens, requests, sealer)
        if sealer.level == "hashes":
            tokens = _hashed(tokens, sealer)
        if METADATA in metadata:
            metadata[METADATA] = _tokenizer(metadata[METADATA], sealer)
    levels = _levels(tokens, requests)
    requests = requests.set_column(requests.schema.get_field_index("content_level"), "content_level", levels)
    sealed = _sealed(requests, sealer)
    if tokens is not None:
        write_tokens(
            _columns(tokens, schema.TOKENS, request_id=sealed.column("request_id")),
            stage / "tokens" / part.name,
            metadata,
        )
    pq.write_table(
        sealed.replace_schema_metadata(footer()),
        stage / "requests" / part.name,
        compression="zstd",
        row_group_size=1 << 16,
    )


def _tokenizer(said: bytes, sealer: _Sealer) -> bytes:
    """What a part says of its tokenizer, without where it lies on this machine and what a template complained of."""
    told = json.loads(said)
    told["name"] = WITHHELD if _TELLTALE.search(told["name"]) else told["name"]
    told["errors"] = {WITHHELD: sum(told["errors"].values())} if told["errors"] else {}
    told["reload"] = None
    if sealer.level == "hashes":
        told["unit"] = sealer.unit
    return json.dumps(told).encode()


def _columns(table: pa.Table, spec: tuple[schema.Column, ...], **changed: Any) -> pa.Table:
    columns = [changed.get(c.name, table.column(c.name)) for c in spec]
    return pa.table(columns, names=[c.name for c in spec]).cast(schema.arrow(spec))


def _levels(tokens: pa.Table | None, requests: pa.Table) -> pa.Array:
    """What identifies each prompt now: tokens, hashes, or its length alone."""
    if tokens is None:
        return pa.array(["lengths"] * len(requests))
    ids, hashes = (np.asarray(tokens.column(c).is_valid()) for c in ("input_ids", "block_hashes"))
    return pa.array(np.where(ids, "tokens", np.where(hashes, "hashes", "lengths")))


def _hashed(tokens: pa.Table, sealer: _Sealer) -> pa.Table:
    """tokens/ with keyed hashes in place of ids, and hashes of the log's own under the key."""
    spec = schema.arrow(schema.TOKENS)
    ids, offsets, known = flat(tokens.column("input_ids"))
    outputs, output_offsets, output_known = flat(tokens.column("output_ids"))
    output_known &= known
    if not output_known.all():  # an answer whose prompt is not known has no place behind it
        lengths = np.where(output_known, np.diff(output_offsets), 0)
        pieces = [outputs[output_offsets[i] : output_offsets[i + 1]] for i in np.flatnonzero(lengths)]
        outputs = np.concatenate(pieces) if pieces else outputs[:0]
        output_offsets = np.concatenate(([0], np.cumsum(lengths)))
    made = block_hashes(sealer.key.blocks, sealer.unit, ids, offsets, outputs, output_offsets)
    old, old_offsets, old_known = flat(tokens.column("block_hashes"))
    old = rehashed(sealer.key.blocks, old)
    lengths = np.where(known, np.diff(made.prompt_offsets), np.diff(old_offsets))
    ends = np.concatenate(([0], np.cumsum(lengths)))
    whole = np.empty(ends[-1], np.uint64)
    mine = np.repeat(known, lengths)
    whole[mine], whole[~mine] = made.prompt, old[np.repeat(~known, np.diff(old_offsets))]
    block_size = np.where(known, sealer.unit, tokens.column("block_size").fill_null(0).to_numpy())
    nulls = pa.nulls(len(tokens), spec.field("input_ids").type)
    counted = [
        pa.array(np.diff(o).astype(np.int32), mask=~k)
        for o, k in ((offsets, known), (output_offsets, output_known))
    ]
    return _columns(
        tokens,
        schema.TOKENS,
        input_ids=nulls,
        output_ids=nulls,
        block_hashes=_lists(whole, ends, known | old_known, spec.field("block_hashes").type),
        output_hashes=_lists(
            made.output, made.output_offsets, output_known, spec.field("output_hashes").type
        ),
        block_size=pa.array(block_size.astype(np.int32), mask=~(known | old_known)),
        input_symbols=pa.array(lengths.astype(np.int32), mask=~(known | old_known)),
        output_symbols=pa.array(np.diff(made.output_offsets).astype(np.int32), mask=~output_known),
        input_length=counted[0],
        output_length=counted[1],
    )


def _lists(
    values: NDArray[Any], offsets: NDArray[np.int64], known: NDArray[np.bool_], type_: pa.DataType
) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(values), type=type_, mask=pa.array(~known)
    )


def _relabelled(tokens: pa.Table, requests: pa.Table, sealer: _Sealer) -> pa.Table:
    """requests/ that says where the ids or hashes of each row come from: only those of one scope may be compared."""
    made = np.asarray(tokens.column("input_ids").is_valid())
    told = np.asarray(pc.equal(requests.column("content_level").cast(pa.string()), "tokens"))
    scope = np.where(told, "ids of the log", "ids of the tokenizer")
    new: dict[str, Any] = {"hash_scope": pa.array(scope)}
    if sealer.level == "hashes":
        n = len(requests)
        new["hash_scheme"] = pa.array([SCHEME] * n)
        new["block_size"] = pa.array(np.full(n, sealer.unit, np.int32))
        new["last_block_partial"] = pa.array(np.zeros(n, bool))
    for name, value in new.items():
        old = requests.column(name)
        old = old.cast(value.type) if pa.types.is_dictionary(old.type) else old
        at = requests.schema.get_field_index(name)
        requests = requests.set_column(at, name, pc.if_else(pa.array(made), value, old))
    return requests


def _sealed(requests: pa.Table, sealer: _Sealer) -> pa.Table:
    """requests/ with every column kept as `KEPT` says."""
    spec = schema.arrow(schema.REQUESTS)
    arrays = []
    for field in spec:
        column = requests.column(field.name)
        how = KEPT.get(field.name)
        if how is None:
            if (
                pa.types.is_string(field.type)
                or pa.types.is_dictionary(field.type)
                or pa.types.is_nested(field.type)
            ):
                column = pa.nulls(len(requests), field.type)
        elif how.startswith("pseudonym"):
            column = _mapped(column, functools.partial(sealer.key.pseudonym, how.split()[1]))
        elif how == "number":
            column = _mapped(column, lambda value: sealer.files.get(value, WITHHELD))
        elif how == "name":
            column = _mapped(column, functools.partial(_name, sealer.key, field.name))
        elif field.name == "params":
            column = pa.array([_params(p) for p in column.to_pylist()], field.type)
        elif field.name == "media":
            column = _media(column, sealer.key, field.type)
        if pa.types.is_dictionary(field.type):
            column = (
                column.cast(pa.string()).dictionary_encode()
                if not pa.types.is_dictionary(column.type)
                else column
            )
        arrays.append(column)
    return pa.table(arrays, names=spec.names).unify_dictionaries().combine_chunks().cast(spec)


def _name(key: Key, column: str, value: str) -> str:
    """A plain name as it is; what may be an address, a path or a sentence as a pseudonym."""
    return value if _PLAIN.fullmatch(value) else f"{column}-{key.pseudonym(column, value)[:8]}"


def _mapped(column: pa.ChunkedArray, made: Callable[[str], str]) -> pa.Array:
    """Each distinct word as `made` makes it; nulls stay."""
    words = column.cast(pa.string()).combine_chunks().dictionary_encode()
    new = pa.array([made(word) for word in words.dictionary.to_pylist()], pa.string())
    return new.take(words.indices)


def _params(params: dict[str, Any] | None) -> dict[str, Any] | None:
    if params is None:
        return None
    return {k: v if k not in _WORDS or v is None or v in _WORDS[k] else "other" for k, v in params.items()}


def _media(column: pa.ChunkedArray, key: Key, type_: pa.DataType) -> pa.Array:
    """Media with their hashes under the key: the same image is still the same image."""
    found = column.to_pylist()
    for row in found:
        for one in row or ():
            if one["hash"] is not None:
                one["hash"] = int(rehashed(key.blocks, np.array([one["hash"]], np.uint64))[0])
    return pa.array(found, type_)


def _rejects(part: Path, out: Path, sealer: _Sealer) -> None:
    """rejects/ with place and reason, without the record and without words that may quote it."""
    table = pq.read_table(part)
    n = len(table)
    kept = _columns(
        table,
        schema.REJECTS,
        source_file=_mapped(table.column("source_file"), lambda value: sealer.files.get(value, WITHHELD)),
        detail=pa.array([WITHHELD] * n),
        raw=pa.nulls(n, pa.large_string()),
    )
    pq.write_table(kept, out, compression="zstd", write_statistics=False)


# -- looking at what is kept ------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """One column of a trace: how it is kept, in how many rows, and the words that stand in it."""

    kind: str  # requests, content, tokens or rejects
    column: str
    how: str
    rows: int  # in which it is not null
    distinct: int | None  # different words
    words: list[str]  # the most frequent ones


def inventory(trace: Trace, words: int = 5) -> list[Kept]:
    """Every column of every file of the trace that holds anything."""
    import polars as pl

    level = trace.manifest["privacy"]
    found = []
    for kind in KINDS:
        parts = trace.parts(kind)
        if not parts:
            continue
        frame = trace.scan(kind)
        for column in schema.FILES[f"trace/{kind}"]:
            one = frame.select(pl.col(column.name))
            held = one.select(pl.all().is_not_null().sum()).collect(engine="streaming").item()
            if not held:
                continue
            shown: list[str] = []
            distinct = None
            listed = kind == "requests" or column.name in ("source_file", "source_format", "reason")
            if listed and (pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)):
                counts = (
                    one.collect().to_series().drop_nulls().cast(pl.String).value_counts(sort=True, name="n")
                )
                distinct = len(counts)
                shown = [str(w) for w in counts.to_series(0).head(words)]
            found.append(Kept(kind, column.name, _how(kind, column, level), held, distinct, shown))
    return found


def _how(kind: str, column: schema.Column, level: str) -> str:
    if kind == "content":
        return "TEXT as logged" if column.name.endswith(("_json", "_text")) else "as logged"
    if kind == "rejects" and column.name in ("raw", "detail"):
        return "TEXT as logged" if level == "text" else WITHHELD
    if column.name in ("input_ids", "output_ids"):
        return "token ids: whoever has the tokenizer can read them"
    if column.name in ("block_hashes", "output_hashes"):
        return "hashes under the key" if level == "hashes" else "hashes of the log"
    if kind == "tokens" and column.name == "request_id":
        return "pseudonym" if level != "text" else "as logged"
    how = KEPT.get(column.name, "")
    if level == "text" or not how:
        return "as logged"
    if how.startswith("pseudonym"):
        return "pseudonym"
    return {"number": "numbered", "name": "name as logged", "rehashed": "hashes under the key"}.get(
        how, "word of traceprof's own"
    )


_PSEUDONYM = re.compile(r"[0-9a-f]{16}")
_TELLTALE = re.compile(r"@|://|^/|\\")


def leaks(trace: Trace) -> list[str]:
    """What stands in the trace against its own privacy level, a sentence each; none when it keeps its promise."""
    import polars as pl

    level = trace.manifest["privacy"]
    if level == "text":
        return []
    found = []
    if (trace.path / "content").exists():
        found.append("there is a folder content/, which holds text")
    known = {*KINDS, MANIFEST}
    found += [f"{p.name} is no file of a trace" for p in trace.path.iterdir() if p.name not in known]
    for kind in ("requests", "tokens", "rejects"):
        frame = trace.scan(kind)
        for name, dtype in frame.collect_schema().items():
            values = frame.select(pl.col(name)).collect().to_series().drop_nulls()
            if not len(values):
                continue
            if level == "hashes" and name in ("input_ids", "output_ids"):
                found.append(f"{kind}/{name} holds token ids")
            if name in ("raw", "detail") and (values != WITHHELD).any():
                found.append(f"{kind}/{name} may quote the log")
            if not isinstance(dtype, (pl.Categorical, pl.String)):
                continue
            words = values.cast(pl.String).unique().to_list()
            if KEPT.get(name, "").startswith("pseudonym") and not all(_PSEUDONYM.fullmatch(w) for w in words):
                found.append(f"{kind}/{name} holds something other than pseudonyms")
            if any(_TELLTALE.search(w) for w in words):
                found.append(f"{kind}/{name} holds what looks like an address or a path")
    return found
