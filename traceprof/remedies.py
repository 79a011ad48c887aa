"""What breaks sharing in a trace, and what each remedy would save: measured, by sending the fixed prompts through the tree.

`traceprof.prefix.breakers` finds candidates in the messages and fixes them. Here the fixed prompts are rendered and tokenized as the
trace's own were, and hit tokens are counted again. What a remedy saves is what the engine computes less: the difference in hit
tokens, less the tokens by which the prompts themselves grew, since history that is put back hits, too, but nobody had asked for it.

Each remedy is measured alone, and all of them at once. One that saves nothing alone, because something else stands in the way at
the same place (a time beside an id), is worth what is lost when it alone is left out of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from traceprof.errors import TraceprofError
from traceprof.load.models import answered_by
from traceprof.prefix import breakers
from traceprof.prefix.breakers import REMEDIES, Candidate, Prompt
from traceprof.prefix.tree import RadixTree, sequences
from traceprof.tokenizer import Tokenizer, encode_requests
from traceprof.tokens import UNUSABLE, chunks, loaded, tokenizer_of
from traceprof.trace import Trace
from traceprof.workers import Progress

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    I64 = NDArray[np.int64]
    Ids = NDArray[Any]  # token ids, or hashes of blocks

SAMPLE = 2_000  # requests that a profile looks at: about a second
SAMPLE_TOKENS = 8_000_000  # and at most so many input tokens, where prompts are long
LEAST_SHARE = 0.002  # of the input tokens: what saves less is not reported
LEAST_TOKENS = 64  # likewise
_SEAM = 8  # tokens before the end of a text that goes on, from which its ids are no seam but another text
_BATCH = 512  # requests that are tokenized, or enter the tree, at once
_MOST_TRIED = 24  # candidates, the most frequent, that are measured
_LEFT_OUT = 4  # kinds and places, the most frequent, of which it is asked what they save beside the others

SPLITS = ("model_split", "tenant_split")


class Finding(NamedTuple):
    """One thing that breaks sharing."""

    kind: str
    where: str
    requests: int  # that it touches
    lost_tokens: int  # that the engine would not compute with the remedy
    example: str | None  # the place as it is; None where the trace holds no text
    example_fixed: str | None  # and as it would be
    remedy: str
    hit_rate_before: float
    hit_rate_after: float
    message: int | None  # index of the message
    offset: int | None  # character in it


class Breakers(NamedTuple):
    """All that was found, the most lost tokens first."""

    findings: list[Finding]
    together: int  # tokens saved with all remedies at once
    measured_requests: int
    of_requests: int
    how: str


class _Sample(NamedTuple):
    """Requests in the order of arrival, with their ids and the groups that can share a cache."""

    prompts: list[Prompt] | None  # None: the trace holds no text that could be changed
    ids: list[Ids]
    roots: I64
    merged: dict[str, I64]  # kind of split -> roots without it
    splits: dict[str, int]  # kind of split -> models, or salts
    times: list[datetime | None]  # of arrival, which templates may show
    tokenizer: Tokenizer | None
    unit: int  # tokens that an id stands for: above 1 they are block hashes
    matched: I64  # ids of each that an earlier one of its group began with

    @property
    def whole(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.ids)) * self.unit

    @property
    def before(self) -> int:
        """Those that hit as things are."""
        return int(self.matched.sum()) * self.unit

    @property
    def least(self) -> float:
        """Tokens that are worth a line."""
        return max(LEAST_TOKENS, LEAST_SHARE * self.whole)

    def finding(
        self,
        kind: str,
        where: str,
        requests: int,
        saved: int,
        example: tuple[str | None, str | None] = (None, None),
    ) -> Finding:
        """A finding that stands in no message."""
        rates = self.before / self.whole, (self.before + saved) / self.whole
        return Finding(kind, where, requests, saved, *example, REMEDIES[kind], *rates, None, None)

    def without_splits(self, kinds: Iterable[str]) -> I64:
        """The groups that can share a cache when splits of these kinds are gone."""
        gone = [self.merged[kind] for kind in SPLITS if kind in kinds]
        return np.zeros(len(self.ids), np.int64) if len(gone) == 2 else gone[0] if gone else self.roots


class _Found(NamedTuple):
    """A candidate, and what its remedy saves."""

    candidate: Candidate
    saved: int

    @property
    def key(self) -> tuple[str, int | None]:
        """What it is found again by after another remedy: kind and place."""
        return self.candidate.kind, self.candidate.place


def find_breakers(
    trace: Trace,
    *,
    limit_requests: int | None = SAMPLE,
    limit_tokens: int | None = None,
    progress: Progress | None = None,
) -> Breakers:
    """What breaks sharing in the trace's first `limit_requests` requests (all of them: None), and no more than `limit_tokens` of input."""
    say = progress or (lambda what, done, total: None)
    total = int(trace.manifest["requests"])
    sample = _sample(trace, total if limit_requests is None else min(limit_requests, total), limit_tokens)
    count = len(sample.ids)
    how = f"measured on {'all' if count == total else f'the first {count:,} of {total:,}'} requests"
    if sample.prompts is None:
        how += "; the trace holds no text that could be changed, so only splits of traffic can be told"
    findings = _splits(sample)
    found: list[_Found] = []
    if sample.prompts is not None:
        found = _in_texts(sample, sample.prompts, say)
        for one in found:
            c = one.candidate
            row = sample.finding(c.kind, c.where, len(c.prompts), one.saved, c.example)
            findings.append(row._replace(message=c.message, offset=c.offset))
    together = 0
    if findings:
        together = _saved_by_all(sample, found, sample.without_splits({f.kind for f in findings}))
    seams = None if sample.prompts is None else _seams(sample.prompts, sample.ids)
    if seams is not None and seams.lost >= sample.least:
        findings.append(
            sample.finding("tokenization_seam", "prompt", seams.requests, seams.lost, seams.example)
        )
        together += seams.lost
    findings.sort(key=lambda f: -f.lost_tokens)
    return Breakers(findings, together, count, total, how)


def _splits(sample: _Sample) -> list[Finding]:
    """What models and tenants that send the same text could share."""
    findings = []
    for kind, roots in sample.merged.items():
        saved = _saved(sample, {}, roots)
        if saved >= sample.least:
            things = "models" if kind == "model_split" else "cache salts"
            where = f"{sample.splits[kind]:,} {things}"
            findings.append(sample.finding(kind, where, len(sample.ids), saved))
    return findings


def _in_texts(sample: _Sample, prompts: Sequence[Prompt], say: Progress) -> list[_Found]:
    """Candidates that are worth a change: alone, or beside the others."""
    missed = np.array([len(one) for one in sample.ids], np.int64) - sample.matched
    # a remedy saves no more than what the prompts that it touches miss
    candidates = [c for c in breakers.find(prompts) if missed[c.prompts].sum() >= sample.least][:_MOST_TRIED]
    alone = []
    for done, candidate in enumerate(candidates, 1):
        alone.append(_Found(candidate, _saved(sample, _fixed_by(prompts, [candidate]))))
        say("breakers", done, len(candidates))
    good = [one for one in alone if one.saved >= sample.least]
    if len(alone) < 2:
        return good
    everything = _saved_by_all(sample, alone)
    # as much as they save one by one: none stands in the way of another
    if everything < sample.least + max(_saved_by_all(sample, good), sum(max(0, one.saved) for one in alone)):
        return good
    beside: dict[tuple[str, int | None], int] = {}
    for key in list(dict.fromkeys(one.key for one in alone))[:_LEFT_OUT]:
        others = _saved_by_all(sample, [one for one in alone if one.key != key])
        beside[key] = min(everything, everything - others)
    best = [one._replace(saved=max(one.saved, beside.get(one.key, 0))) for one in alone]
    return [one for one in best if one.saved >= sample.least]


def _saved_by_all(sample: _Sample, found: Sequence[_Found], roots: I64 | None = None) -> int:
    """Tokens saved by some remedies at once."""
    prompts = sample.prompts or []
    if len(found) < 2:
        return _saved(sample, _fixed_by(prompts, [one.candidate for one in found]), roots)
    now = breakers.mended(prompts, {one.key for one in found})
    changed = {i: new for i, (old, new) in enumerate(zip(prompts, now, strict=True)) if old is not new}
    return _saved(sample, changed, roots)


def _fixed_by(prompts: Sequence[Prompt], candidates: Iterable[Candidate]) -> dict[int, Prompt]:
    """Prompts that fixes change, by their position."""
    fixed: dict[int, Prompt] = {}
    for candidate in candidates:
        for i in candidate.prompts:
            fixed[i] = candidate.fix(i, fixed.get(i, prompts[i]))
    return {i: prompt for i, prompt in fixed.items() if prompt is not prompts[i]}


def _saved(sample: _Sample, fixed: dict[int, Prompt], roots: I64 | None = None) -> int:
    """Tokens that need not be computed when some prompts are changed, and groups are others."""
    roots = sample.roots if roots is None else roots
    dtype = _dtype(sample.ids)
    tree = RadixTree(dtype=dtype, requests_total=len(sample.ids))
    computed = 0
    for at in range(0, len(sample.ids), _BATCH):
        ids = _encoded(sample, fixed, range(at, min(at + _BATCH, len(sample.ids))))
        symbols, offsets = sequences(ids, dtype)  # type: ignore[arg-type]
        matched = tree.insert(symbols, offsets, roots[at : at + _BATCH]).matched
        computed += len(symbols) - int(matched.sum())
    return sample.whole - sample.before - computed * sample.unit


# -- what is measured ------------------------------------------------------------------------------------------


def _sample(trace: Trace, count: int, limit_tokens: int | None) -> _Sample:
    """The first `count` requests that have ids of their own."""
    columns = (
        "model_served", "model_requested", "cache_salt", "hash_scope", "session_id", "content_state", "content_level",
        "served_from_response_cache", "arrival_ts",
    )  # fmt: skip
    rows = trace.scan("requests").select(columns).head(count).collect()
    usable = (
        ~rows["content_state"].cast(pl.String).is_in(UNUSABLE)
        & ~rows["served_from_response_cache"].fill_null(False)
    ).fill_null(False)
    unit = _unit(trace)
    ids, kept = _ids(trace, unit, usable.to_numpy(), limit_tokens)
    seen = _with_models(rows)[kept]
    tokenizer = _tokenizer(trace)
    # ids of the log's own tokenizer mean something else than ours
    info = tokenizer_of(trace)
    keys = [
        "model",
        "cache_salt",
        "hash_scope",
        *(["content_level"] if info is not None and not info.exact else []),
    ]
    merged, splits = {}, {}
    for kind, key in (("model_split", "model"), ("tenant_split", "cache_salt")):
        if seen[key].n_unique() > 1:
            merged[kind] = _roots(seen, [k for k in keys if k != key])
            splits[kind] = seen[key].drop_nulls().n_unique()
    prompts = None
    if unit == 1 and trace.manifest["privacy"] == "text" and tokenizer is not None:
        texts = (seen["content_level"].cast(pl.String) == "text").fill_null(False).to_list()
        wanted = dict(zip(kept, zip(range(len(kept)), seen["session_id"], strict=True), strict=True))
        prompts = _prompts(
            trace, {at: of for (at, of), known in zip(wanted.items(), texts, strict=True) if known}, len(kept)
        )
    roots = _roots(seen, keys)
    times = seen["arrival_ts"].to_list()
    return _Sample(prompts, ids, roots, merged, splits, times, tokenizer, unit, _matched(ids, roots))


def _roots(seen: pl.DataFrame, keys: Sequence[str]) -> I64:
    """Of each request the group of those that it can share a cache with."""
    return seen.select(pl.struct(keys).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()


def _with_models(rows: pl.DataFrame) -> pl.DataFrame:
    """With `model`: what answered; where nothing did, what always answers to that name, if it is but one."""
    words = ("model_served", "model_requested", "cache_salt", "hash_scope", "content_level")
    return answered_by(rows.with_columns(pl.col(words).cast(pl.String)), "model")


def _unit(trace: Trace) -> int:
    """Tokens that an id stands for in most requests: 1 for token ids, above that for blocks."""
    if not trace.parts("tokens"):
        return 1
    sizes = trace.scan("tokens").filter(pl.col("input_symbols").is_not_null()).select("block_size").collect()
    units = sizes["block_size"].fill_null(1)
    return int(units.mode().sort()[0]) if len(units) else 1


def _ids(
    trace: Trace, unit: int, usable: NDArray[np.bool_], limit_tokens: int | None
) -> tuple[list[Ids], list[int]]:
    """Ids of the usable requests that have some, and where they stand in the trace."""
    ids: list[Ids] = []
    kept: list[int] = []
    taken = 0
    if not trace.parts("tokens"):
        return ids, kept
    for chunk in chunks(trace, "input_ids" if unit == 1 else "block_hashes"):
        for k in np.flatnonzero(chunk.known):
            at = chunk.first + int(k)
            if at >= len(usable) or (limit_tokens is not None and taken * unit >= limit_tokens):
                return ids, kept
            if usable[at]:
                ids.append(chunk.symbols[chunk.offsets[k] : chunk.offsets[k + 1]].copy())
                kept.append(at)
                taken += len(ids[-1])
    return ids, kept


def _tokenizer(trace: Trace) -> Tokenizer | None:
    """The tokenizer of the trace's ids, if it is still to be had as it was."""
    info = tokenizer_of(trace)
    if info is None or info.reload is None:
        return None
    try:
        made = loaded(*info.reload)
    except TraceprofError:
        return None
    return made if made.digest == info.digest else None


def _prompts(trace: Trace, wanted: dict[int, tuple[int, str | None]], count: int) -> list[Prompt] | None:
    """What was sent with each of `count` requests; nothing in those that are not wanted. None where no text is found at all.

    wanted  position in the trace -> (position among the requests, session)
    """
    found = [Prompt(None)] * count
    known: dict[Any, Any] = {}  # histories repeat their messages: each is kept once
    first, last = 0, max(wanted, default=-1)
    for part in trace.parts("requests"):
        content = trace.path / "content" / part.name
        if first <= last and content.exists():
            columns = ["row", "messages_json", "tools_json", "prompt_text"]
            for batch in pq.ParquetFile(content).iter_batches(_BATCH, columns=columns):
                rows = batch.column("row").to_pylist()
                for k, row in enumerate(rows):
                    if first + row not in wanted:
                        continue
                    to, session = wanted[first + row]
                    messages, tools, text = (batch.column(c)[k].as_py() for c in columns[1:])
                    found[to] = Prompt(_messages(messages, known), _once(tools, known), text, session)
        first += pq.read_metadata(part).num_rows
    return found if any(one.messages is not None or one.text is not None for one in found) else None


def _messages(text: str | None, known: dict[Any, Any]) -> list[dict[str, Any]] | None:
    """Messages as JSON, read; None where they are none."""
    values = _read(text)
    if not isinstance(values, list) or not all(isinstance(m, dict) for m in values):
        return None
    messages: list[dict[str, Any]] = values
    return [known.setdefault(_key(m), m) for m in messages]


def _key(message: dict[str, Any]) -> object:
    content = message.get("content")
    plain = isinstance(content, str) and list(message) == ["role", "content"]
    return (message["role"], content) if plain else json.dumps(message)


def _once(text: str | None, known: dict[Any, Any]) -> Any:
    """The value of a JSON text; the same one for the same text."""
    if text is not None and text not in known:
        known[text] = _read(text)
    return known.get(text)


def _read(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):  # numbers or depths that Python's reader does not go into
        return None


def _encoded(sample: _Sample, fixed: dict[int, Prompt], batch: range) -> list[Ids]:
    """The ids of a batch of prompts, some of them changed."""
    ids = sample.ids[batch.start : batch.stop]
    rows = [i for i in batch if i in fixed]
    if not rows:
        return ids
    assert sample.tokenizer is not None
    made = encode_requests(
        sample.tokenizer,
        [_bytes(fixed[i].messages) for i in rows],
        [_bytes(fixed[i].tools) for i in rows],
        [fixed[i].text if fixed[i].messages is None else None for i in rows],
        now=[sample.times[i] for i in rows],
    )
    for k, i in enumerate(rows):
        if made.input_valid[k]:
            ids[i - batch.start] = made.input.ids[made.input.offsets[k] : made.input.offsets[k + 1]]
    return ids


def _bytes(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _matched(ids: Sequence[Ids], roots: I64) -> I64:
    """Ids of each prompt that an earlier one of its group began with."""
    dtype = _dtype(ids)
    tree = RadixTree(dtype=dtype, requests_total=len(ids))
    matched = []
    for at in range(0, len(ids), _BATCH):
        symbols, offsets = sequences(ids[at : at + _BATCH], dtype)  # type: ignore[arg-type]
        matched.append(tree.insert(symbols, offsets, roots[at : at + _BATCH]).matched)
    return np.concatenate([np.empty(0, np.int64), *matched])


def _dtype(ids: Sequence[Ids]) -> np.dtype[Any]:
    return ids[0].dtype if ids else np.dtype(np.uint32)


class _Seams(NamedTuple):
    requests: int
    lost: int
    example: tuple[str, str]


def _seams(prompts: Sequence[Prompt], ids: Sequence[Ids]) -> _Seams | None:
    """Texts that go on from an earlier one of their session, but whose ids part from it just before its end."""
    last: dict[str, int] = {}
    requests = lost = 0
    example = ("", "")
    for i, prompt in enumerate(prompts):
        if prompt.messages is not None or prompt.text is None or prompt.session is None:
            continue
        before = last.get(prompt.session)
        last[prompt.session] = i
        if before is None:
            continue
        old = prompts[before].text or ""
        if not old or not prompt.text.startswith(old) or len(prompt.text) == len(old):
            continue
        a, b = ids[before], ids[i]
        n = min(len(a), len(b))
        differ = np.flatnonzero(a[:n] != b[:n])
        same = int(differ[0]) if len(differ) else n
        if 0 < len(a) - same <= _SEAM:
            requests += 1
            lost += len(a) - same
            was, new = prompt.text[max(0, len(old) - 40) : len(old)], prompt.text[len(old) : len(old) + 40]
            example = was + new, f"{was}|{new}"
    return _Seams(requests, lost, example) if requests else None


def previews(
    trace: Trace, findings: Sequence[Finding], n: int = 3, *, limit_requests: int | None = None
) -> list[list[tuple[str, str]]]:
    """Of each finding, (before, after) of the place in up to n different requests that it touches; none where the trace has no text.

    Of the same first requests as they were found in.
    """
    total = int(trace.manifest["requests"])
    sample = _sample(trace, total if limit_requests is None else min(limit_requests, total), None)
    prompts = sample.prompts or []
    candidates = {(c.kind, c.where): c for c in reversed(breakers.find(prompts))}
    out = []
    for finding in findings:
        shown: list[tuple[str, str]] = []
        candidate = candidates.get((finding.kind, finding.where))
        for i in candidate.prompts if candidate is not None else ():
            assert candidate is not None
            pair = (
                breakers.shown(prompts[i], candidate),
                breakers.shown(candidate.fix(i, prompts[i]), candidate),
            )
            if pair[0] != pair[1] and pair not in shown:
                shown.append(pair)
            if len(shown) == n:
                break
        if not shown and finding.example is not None:
            shown = [(finding.example, finding.example_fixed or "")]
        out.append(shown)
    return out
