"""What breaks sharing in a trace, and what each remedy would save: measured, by sending the fixed prompts through the tree.

`traceprof.prefix.breakers` finds candidates in the messages and fixes them. Here the fixed prompts are rendered and tokenized as the
trace's own were, and what has to be computed, tokens that no earlier prompt began with, is counted again: `lost_tokens` is the
difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from traceprof.errors import TraceprofError
from traceprof.prefix import breakers
from traceprof.prefix.breakers import REMEDIES, Prompt
from traceprof.prefix.tree import RadixTree
from traceprof.tokenizer import Tokenizer, encode_requests
from traceprof.tokens import UNUSABLE, chunks, loaded, tokenizer_of
from traceprof.trace import Trace
from traceprof.workers import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = 2_000  # requests that a profile looks at: about a second
LEAST_SHARE = 0.002  # of the input tokens: what saves less is not reported
LEAST_TOKENS = 64  # likewise
# in which remedies are applied together: whole messages, versions of texts, parts of texts
_ORDER = sorted(
    breakers.KINDS, key=lambda kind: (not kind.startswith("history"), kind not in ("whitespace", "json_key_order", "template_drift"))
)  # fmt: skip
_SEAM = 8  # tokens before the end of a text that goes on, from which its ids are no seam but another text


class Finding(NamedTuple):
    """One thing that breaks sharing."""

    kind: str
    where: str
    requests: int  # that it touches
    lost_tokens: int  # that had not to be computed with the remedy
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


def _best_of_choices(
    found: list[tuple[Finding, breakers.Candidate | None]],
) -> list[tuple[Finding, breakers.Candidate | None]]:
    """Of remedies that are two ways to mend one thing the one that saves more."""
    best: dict[str, int] = {}
    for i, (finding, candidate) in enumerate(found):
        choice = candidate.choice if candidate is not None else ""
        key = choice or f"#{i}"
        if key not in best or finding.lost_tokens > found[best[key]][0].lost_tokens:
            best[key] = i
    return [found[i] for i in sorted(best.values())]


class _Sample(NamedTuple):
    """Requests in the order of arrival, with their ids and the groups that can share a cache."""

    prompts: list[Prompt] | None  # None: the trace holds no text
    ids: list[NDArray[Any]]
    roots: NDArray[np.int64]
    merged: dict[str, NDArray[np.int64]]  # kind of split -> roots without it
    tokenizer: Tokenizer | None
    unit: int  # tokens of a symbol of ids: above 1 they are block hashes

    def merged_together(self, kinds: set[str]) -> NDArray[np.int64]:
        """The groups without the splits among these kinds."""
        split = [k for k in ("model_split", "tenant_split") if k in kinds]
        if len(split) == 2:
            return np.zeros(len(self.ids), np.int64)
        return self.merged[split[0]] if split else self.roots


def find_breakers(
    trace: Trace, *, limit_requests: int | None = SAMPLE, progress: Progress | None = None
) -> Breakers:
    """What breaks sharing in the trace's first `limit_requests` requests (all of them: None)."""
    say = progress or (lambda what, done, total: None)
    total = int(trace.manifest["requests"])
    sample = _sample(trace, total if limit_requests is None else min(limit_requests, total))
    count = len(sample.ids)
    how = f"measured on {'all' if count == total else f'the first {count:,} of {total:,}'} requests"
    if sample.prompts is None:
        how += "; the trace holds no text, so only splits of traffic can be told"
    whole = sum(map(len, sample.ids)) * sample.unit
    matched = _matched(sample.ids, sample.roots)
    missed = np.array([len(one) for one in sample.ids], np.int64) - matched
    before = int(matched.sum()) * sample.unit
    least = max(LEAST_TOKENS, LEAST_SHARE * whole)
    found: list[tuple[Finding, breakers.Candidate | None]] = []

    def finding(
        kind: str, where: str, requests: int, hits: int, example: tuple[str, str] | None = None,
        message: int | None = None, offset: int | None = None, after: int | None = None,
    ) -> Finding:  # fmt: skip
        was, becomes = example or (None, None)
        after = whole if after is None else after  # tokens of all prompts with the remedy
        spared = (whole - before) - (after - hits)
        rates = before / max(1, whole), hits / max(1, after)
        return Finding(kind, where, requests, spared, was, becomes, REMEDIES[kind], *rates, message, offset)

    for kind, roots in sample.merged.items():
        hits = _hits(sample.ids, roots) * sample.unit
        if hits - before >= least:
            where = "models of the trace" if kind == "model_split" else "cache salts of the trace"
            found.append((finding(kind, where, count, hits), None))
    together = 0
    if sample.prompts is not None and sample.tokenizer is not None:
        # a remedy saves no more than what the prompts that it touches miss
        candidates = [c for c in breakers.find(sample.prompts) if missed[c.prompts].sum() >= least]
        for done, candidate in enumerate(candidates, 1):
            say("breakers", done, len(candidates))
            ids = _again(sample, [candidate])
            hits = _hits(ids, sample.roots)
            after = sum(map(len, ids))
            one = finding(
                candidate.kind, candidate.where, len(candidate.prompts), hits, candidate.example, candidate.message,
                candidate.offset, after,
            )  # fmt: skip
            if one.lost_tokens >= least:
                found.append((one, candidate))
        seam = _seams(sample)
        if seam is not None and seam.lost >= least:
            found.append(
                (
                    finding("tokenization_seam", "prompt", seam.requests, before + seam.lost, seam.example),
                    None,
                )
            )
        found = _best_of_choices(found)
        kept = [c for _, c in found if c is not None]
        kept.sort(key=lambda c: _ORDER.index(c.kind))
        if kept:
            ids = _again(sample, kept)
            roots = sample.merged_together({f.kind for f, _ in found})
            together = (whole - before) - (sum(map(len, ids)) - _hits(ids, roots))
    findings = sorted((f for f, _ in found), key=lambda f: -f.lost_tokens)
    together = max([together, *(f.lost_tokens for f in findings)], default=0)
    return Breakers(findings, together, count, total, how)


def _sample(trace: Trace, count: int) -> _Sample:
    columns = (
        "model_served",
        "model_requested",
        "cache_salt",
        "session_id",
        "content_state",
        "served_from_response_cache",
    )
    rows = trace.scan("requests").select(columns).head(count).collect()
    ids: list[NDArray[Any]] = []
    kept: list[int] = []
    usable = (
        ~rows["content_state"].cast(pl.String).is_in(UNUSABLE)
        & ~rows["served_from_response_cache"].fill_null(False)
    ).to_list()
    unit, column = _identified(trace)
    if unit:
        for chunk in chunks(trace, column):
            for k in range(len(chunk.known)):
                at = chunk.first + k
                if at < count and chunk.known[k] and usable[at] is not False:
                    ids.append(chunk.symbols[chunk.offsets[k] : chunk.offsets[k + 1]].copy())
                    kept.append(at)
            if chunk.first + len(chunk.known) >= count:
                break
    seen = rows[kept]
    model = pl.coalesce("model_served", "model_requested").cast(pl.String)

    def roots(*keys: pl.Expr) -> NDArray[np.int64]:
        if not keys:
            return np.zeros(len(seen), np.int64)
        return seen.select(pl.struct(keys).rank("dense").cast(pl.Int64) - 1).to_series().to_numpy()

    salt = pl.col("cache_salt")
    merged = {}
    if seen.select(model.n_unique()).item() > 1:
        merged["model_split"] = roots(salt)
    if seen["cache_salt"].n_unique() > 1:
        merged["tenant_split"] = roots(model.alias("model"))
    prompts = (
        _prompts(trace, kept, seen["session_id"].to_list()) if trace.manifest["privacy"] == "text" else None
    )
    if unit > 1:
        prompts = None
    return _Sample(prompts, ids, roots(model.alias("model"), salt), merged, _tokenizer(trace), max(1, unit))


def _identified(trace: Trace) -> tuple[int, str]:
    """(tokens of a symbol, column) of what most requests are identified by; (0, "") where nothing identifies them."""
    if not trace.parts("tokens"):
        return 0, ""
    sizes = trace.scan("tokens").select("block_size", "input_symbols").drop_nulls("input_symbols").collect()
    if not len(sizes):
        return 0, ""
    hashed = sizes["block_size"].drop_nulls()
    if 2 * len(hashed) <= len(sizes):
        return 1, "input_ids"
    return int(hashed.mode().sort()[0]), "block_hashes"


def _tokenizer(trace: Trace) -> Tokenizer | None:
    info = tokenizer_of(trace)
    if info is None or info.reload is None:
        return None
    try:
        made = loaded(*info.reload)
    except TraceprofError:
        return None
    return made if made.digest == info.digest else None


def _prompts(trace: Trace, kept: list[int], sessions: list[str | None]) -> list[Prompt] | None:
    """The content of those requests; None where any of them has none."""
    found: dict[int, Prompt] = {}
    wanted = dict(zip(kept, sessions, strict=True))
    first = 0
    for part in trace.parts("requests"):
        size = pl.scan_parquet(part).select(pl.len()).collect().item()
        content = trace.path / "content" / part.name
        if not content.exists():
            return None
        frame = pl.read_parquet(content, columns=["row", "messages_json", "tools_json", "prompt_text"])
        for row, messages, tools, text in frame.iter_rows():
            at = first + row
            if at in wanted:
                found[at] = Prompt(_json(messages), _json(tools), text, wanted[at])
        first += size
        if first > max(kept, default=0):
            break
    return [found[at] for at in kept] if len(found) == len(kept) else None


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _again(sample: _Sample, candidates: Sequence[breakers.Candidate]) -> list[NDArray[Any]]:
    """The ids of all prompts, with fixes one after another."""
    assert sample.prompts is not None
    assert sample.tokenizer is not None
    fixed = dict[int, Prompt]()
    for candidate in candidates:
        for i in candidate.prompts:
            prompt = fixed.get(i, sample.prompts[i])
            fixed[i] = candidate.fix(i, prompt)
    ids = list(sample.ids)
    order = sorted(fixed)
    for at in range(0, len(order), 512):
        batch = order[at : at + 512]
        made = encode_requests(
            sample.tokenizer,
            [_bytes(fixed[i].messages) for i in batch],
            [_bytes(fixed[i].tools) for i in batch],
            [fixed[i].text if fixed[i].messages is None else None for i in batch],
        )
        for k, i in enumerate(batch):
            if made.input_valid[k]:
                ids[i] = made.input.ids[made.input.offsets[k] : made.input.offsets[k + 1]]
    return ids


def _bytes(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _hits(ids: Sequence[NDArray[Any]], roots: NDArray[np.int64]) -> int:
    """Hit tokens of prompts against earlier ones of their group."""
    return int(_matched(ids, roots).sum())


def _matched(ids: Sequence[NDArray[Any]], roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same, prompt by prompt."""
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids], dtype=np.int64)]).astype(np.int64)
    dtype = ids[0].dtype if ids else np.dtype(np.uint32)
    symbols = np.concatenate([np.empty(0, dtype), *ids])
    return RadixTree(dtype=dtype).insert(symbols, offsets, roots).matched


class _Seams(NamedTuple):
    requests: int
    lost: int
    example: tuple[str, str]


def _seams(sample: _Sample) -> _Seams | None:
    """Texts that go on from an earlier one of their session, but whose ids part from it before its end."""
    assert sample.prompts is not None
    last: dict[str, int] = {}
    requests = lost = 0
    example = ("", "")
    for i, prompt in enumerate(sample.prompts):
        if prompt.messages is not None or prompt.text is None or prompt.session is None:
            continue
        before = last.get(prompt.session)
        last[prompt.session] = i
        if before is None:
            continue
        old = sample.prompts[before].text or ""
        if not old or not prompt.text.startswith(old) or len(prompt.text) == len(old):
            continue
        a, b = sample.ids[before], sample.ids[i]
        n = min(len(a), len(b))
        differ = np.flatnonzero(a[:n] != b[:n])
        same = int(differ[0]) if len(differ) else n
        if 0 < len(a) - same <= _SEAM:
            requests += 1
            lost += len(a) - same
            cut = max(0, len(old) - 40)
            example = (
                prompt.text[cut : len(old) + 40],
                prompt.text[cut : len(old)] + "|" + prompt.text[len(old) : len(old) + 40],
            )
    return _Seams(requests, lost, example) if requests else None


def preview(trace: Trace, finding: Finding, n: int = 3) -> list[tuple[str, str]]:
    """(before, after) of the place in up to n different requests that a finding touches; none where the trace has no text."""
    sample = _sample(trace, int(trace.manifest["requests"]))
    if sample.prompts is None:
        return []
    shown: list[tuple[str, str]] = []
    for candidate in breakers.find(sample.prompts):
        if (candidate.kind, candidate.where) != (finding.kind, finding.where):
            continue
        for i in candidate.prompts:
            was = sample.prompts[i]
            pair = breakers.shown(was, candidate), breakers.shown(candidate.fix(i, was), candidate)
            if pair[0] != pair[1] and pair not in shown:
                shown.append(pair)
            if len(shown) == n:
                return shown
    return shown or ([(finding.example, finding.example_fixed or "")] if finding.example else [])
