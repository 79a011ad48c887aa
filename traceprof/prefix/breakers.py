"""What keeps prompts from sharing more than they do, found in their messages, and what to change.

    near duplicates  texts that say almost the same and part early (MinHash and locality-sensitive hashing): values that change with
                     every request, documents, white space or versions of a template, before text that is shared
    tools            the same tools in another order, or with their keys in another order
    history          turns of a session that are dropped or said differently than they were sent before

A candidate names a kind, a place and the prompts that it touches, and has a fix: a function from prompt to prompt. Nothing
here says what a fix would save: `traceprof.remedies` measures that, by sending the fixed prompts through the tree again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Message = dict[str, Any]

KINDS = (
    "timestamp", "date", "uuid", "request_id", "user_name", "retrieved_documents", "tool_order", "json_key_order", "whitespace",
    "template_drift", "history_truncated", "history_rewritten", "tokenization_seam", "model_split", "tenant_split",
)  # fmt: skip

REMEDIES = {
    "timestamp": "Put the time behind the text that all requests share, at the end of the last message, or round it to the hour.",
    "date": "Put the date behind the text that all requests share, at the end of the last message.",
    "uuid": "Send the id as metadata or at the end of the last message, not before the text that all requests share.",
    "request_id": "Send the id as metadata or at the end of the last message, not before the text that all requests share.",
    "user_name": "Put what differs from user to user behind the text that all requests share.",
    "retrieved_documents": "Put the instructions that all requests share first, and the documents behind them.",
    "tool_order": "Send the tools in a fixed order, for example sorted by name.",
    "json_key_order": "Serialize JSON with sorted keys.",
    "whitespace": "Build the prompt from one template, so that white space is the same in every request.",
    "template_drift": "Serve one version of the prompt at a time, or keep what the versions share in front of what differs.",
    "history_truncated": "Drop old turns rarely and many at once, or summarise them, instead of one more with every request.",
    "history_rewritten": "Send earlier turns exactly as they were sent and answered before.",
    "tokenization_seam": "Send the earlier token ids and the new text, or end what is sent at a token that nothing merges with, such as a line break.",
    "model_split": "Serve these requests with one model, or share a prefix per model; adapters keep caches apart, too.",
    "tenant_split": "Give tenants whose common text is no secret one cache salt, or none.",
}  # fmt: skip

# what changes with every request; each pattern is linear in the length of the text
_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?: ?[AaPp][Mm])?"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_WEEKDAY = r"(?:Mon|Tues?|Wed|Wednes|Thu|Thurs|Fri|Sat|Satur|Sun)(?:day)?"
VOLATILE = {
    "uuid": re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"),
    "timestamp": re.compile(
        rf"\b{_DAY}[T ]{_CLOCK}(?: ?(?:Z|UTC|GMT|[+-]\d{{2}}:?\d{{2}}))?"
        rf"|\b(?:{_WEEKDAY},? )?(?:\d{{1,2}} {_MONTH}|{_MONTH} \d{{1,2}}),? \d{{4}},?(?: at)? {_CLOCK}(?: ?(?:UTC|GMT|[+-]\d{{4}}))?"
        rf"|\b{_CLOCK}(?: ?(?:Z|UTC|GMT))?\b|\b1[5-9]\d{{8}}(?:\d{{3}}|\d{{6}})?(?:\.\d{{1,9}})?\b"
    ),
    "date": re.compile(
        rf"\b{_DAY}\b|\b\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b"
        rf"|\b(?:{_WEEKDAY},? )?(?:\d{{1,2}} {_MONTH}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?),? \d{{4}}\b"
    ),
    "request_id": re.compile(
        r"\b(?=[0-9A-Za-z_-]{0,20}\d)(?:[A-Za-z]{2,12}[_-])(?=[0-9A-Za-z]{0,40}\d)[0-9A-Za-z]{5,64}\b|\b(?=[0-9a-f]{0,20}\d)[0-9a-f]{12,64}\b|\b\d{6,20}\b"
    ),
}  # fmt: skip
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\S+")

MIN_SHARED = 160  # characters that a family must share behind the place where it parts
_FEW_VERSIONS = 3  # of a text that many requests send: versions of a template; more are values
_LONG_SPAN = 120  # characters, from which a differing span is a document
_MOST_TEXTS = 4000  # distinct texts of one place that are compared
_SHINGLE = 4  # words
_PERMUTATIONS = 64
_SIMILAR = 0.6
_COMPARED = 6000  # characters of a text that decide whether it is like another


class Prompt(NamedTuple):
    """A request as it was sent: messages and tools, or one text."""

    messages: list[Message] | None
    tools: Any = None
    text: str | None = None
    session: str | None = None


class Candidate(NamedTuple):
    """Something that may keep prompts apart."""

    kind: str
    where: str
    message: int | None  # index of the message, None: tools or the whole
    offset: int | None  # character in it
    prompts: list[int]  # that it touches
    fix: Callable[[int, Prompt], Prompt]  # of those prompts
    example: tuple[str, str]  # the place before and after


def find(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Candidates among prompts in the order of their arrival, the most frequent first."""
    found = [*_tools(prompts), *_history(prompts)]
    for place in range(2):
        found.extend(_near_duplicates(prompts, place))
    return sorted(found, key=lambda c: -len(c.prompts))


# -- texts ---------------------------------------------------------------------------------------------------


def text_of(message: Message) -> str | None:
    """The text of a message: its content, or its only text part; None where there is none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [p for p in content if isinstance(p, dict) and isinstance(p.get("text"), str)]
        if len(texts) == 1:
            return str(texts[0]["text"])
    return None


def _with_text(message: Message, text: str) -> Message:
    content = message.get("content")
    if isinstance(content, list):
        parts = [
            {**p, "text": text} if isinstance(p, dict) and isinstance(p.get("text"), str) else p
            for p in content
        ]
        return {**message, "content": parts}
    return {**message, "content": text}


def _place_text(prompt: Prompt, place: int) -> str | None:
    if prompt.messages is None:
        return prompt.text if place == 0 else None
    return text_of(prompt.messages[place]) if place < len(prompt.messages) else None


def _replaced(prompt: Prompt, place: int, text: str, moved: str) -> Prompt:
    """The prompt with another text at a place, and what was taken out at the end of the last message."""
    if prompt.messages is None:
        return prompt._replace(text=text + moved)
    messages = list(prompt.messages)
    messages[place] = _with_text(messages[place], text)
    if moved:
        last = text_of(messages[-1])
        if last is not None:
            messages[-1] = _with_text(messages[-1], last + moved)
    return prompt._replace(messages=messages)


def _role(prompt: Prompt, place: int) -> str:
    if prompt.messages is None:
        return "prompt"
    return f"{prompt.messages[place].get('role', 'unknown')} message"


def shown(prompt: Prompt, candidate: Candidate) -> str:
    """The place of a candidate in a prompt, in about 120 characters."""
    if candidate.message is None:
        return (
            ", ".join(map(_name, prompt.tools or []))
            if candidate.kind == "tool_order"
            else _dumps(prompt.tools)[:160]
        )
    return _around(_place_text(prompt, candidate.message) or "", candidate.offset or 0)


def _around(text: str, at: int, width: int = 120) -> str:
    start = max(0, at - 40)
    return _SPACE.sub(" ", text[start : start + width]).strip()


# -- near duplicates --------------------------------------------------------------------------------------------


def _near_duplicates(prompts: Sequence[Prompt], place: int) -> list[Candidate]:
    """Families of texts at one place of the prompt (0: the first message, 1: the second) that part early."""
    owners: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        text = _place_text(prompt, place)
        if text is not None and len(text) >= MIN_SHARED:
            owners[text].append(i)
    texts = sorted(owners, key=lambda t: owners[t][0])[:_MOST_TEXTS]
    found = []
    for family in _families(texts):
        found.extend(_of_family(prompts, place, family, owners))
    return found


def _families(texts: list[str]) -> list[list[str]]:
    """Groups of at least two texts that are near duplicates, or end with the same long text, in a fixed order."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(group: Iterable[int]) -> None:
        first, *rest = group
        for other in rest:
            parent[root(other)] = root(first)

    ends: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        ends[_masked(text[-MIN_SHARED:])].append(i)
    for group in ends.values():
        join(group)
    if len(texts) > 1:
        from datasketch import MinHash, MinHashLSH

        index = MinHashLSH(threshold=_SIMILAR, num_perm=_PERMUTATIONS)
        for i, text in enumerate(texts):
            made = MinHash(num_perm=_PERMUTATIONS, seed=1)
            words = _WORD.findall(_masked(text[:_COMPARED]))
            made.update_batch(
                [" ".join(words[k : k + _SHINGLE]).encode() for k in range(max(1, len(words) - _SHINGLE + 1))]
            )
            near = index.query(made)
            index.insert(i, made)
            if near:
                join([min(near), i])
    groups: dict[int, list[str]] = defaultdict(list)
    for i, text in enumerate(texts):
        groups[root(i)].append(text)
    return [g for g in groups.values() if len(g) > 1]


def _masked(text: str) -> str:
    for pattern in VOLATILE.values():
        text = pattern.sub("\0", text)
    return text


def _of_family(
    prompts: Sequence[Prompt], place: int, family: list[str], owners: dict[str, list[int]]
) -> list[Candidate]:
    """What tells the texts of a family apart: values, white space, a span in the middle, versions."""
    found = []
    rest = family
    for kind, pattern in VOLATILE.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for text in rest:
            groups[pattern.sub("\0", text)].append(text)
        varied = {masked: group for masked, group in groups.items() if len(group) > 1}
        # what is left behind the first value must be worth sharing
        varied = {m: g for m, g in varied.items() if len(m) - m.find("\0") >= MIN_SHARED}
        if varied:
            touched = {t: None for g in varied.values() for t in g}
            found.append(_moving_values(prompts, place, kind, pattern, list(touched), owners))
            # one of each group stands for it from here on
            rest = [t for t in rest if t not in touched] + [g[0] for g in varied.values()]
    spaces: dict[str, list[str]] = defaultdict(list)
    for text in rest:
        spaces[_SPACE.sub(" ", _masked(text)).strip()].append(text)
    loose = [g for g in spaces.values() if len(g) > 1]
    if loose:
        found.append(_one_version(prompts, place, "whitespace", loose, owners))
        rest = [g[0] for g in spaces.values()]
    if len(rest) > 1:
        often = sum(len(owners[t]) for t in rest) >= 4 * len(rest)
        span = _span(rest)
        if often and (len(rest) <= _FEW_VERSIONS or (span is None and len(rest) <= 4 * _FEW_VERSIONS)):
            found.append(_one_version(prompts, place, "template_drift", [rest], owners))
        elif span is not None:
            found.append(_moving_span(prompts, place, rest, span, owners))
    return found


def _moving_values(
    prompts: Sequence[Prompt],
    place: int,
    kind: str,
    pattern: re.Pattern[str],
    texts: list[str],
    owners: dict[str, list[int]],
) -> Candidate:
    members = sorted(i for t in texts for i in owners[t])
    first = texts[0]
    match = pattern.search(first)
    at = match.start() if match else 0

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        assert text is not None
        values = (
            pattern.findall(text) if pattern.groups == 0 else [m.group(0) for m in pattern.finditer(text)]
        )
        return _replaced(prompt, place, pattern.sub("", text), "\n" + " ".join(values))

    fixed = _place_text(fix(0, prompts[members[0]]), place) or ""
    where = f"{_role(prompts[members[0]], place)}, character {at}"
    return Candidate(kind, where, place, at, members, fix, (_around(first, at), _around(fixed, at)))


def _one_version(
    prompts: Sequence[Prompt], place: int, kind: str, groups: list[list[str]], owners: dict[str, list[int]]
) -> Candidate:
    """All texts of a group become its most frequent one."""
    best = {}
    for group in groups:
        usual = max(group, key=lambda t: (len(owners[t]), -owners[t][0]))
        best.update(dict.fromkeys(group, usual))
    changed = [t for t in best if best[t] != t]
    members = sorted(i for t in best for i in owners[t])
    at = _common(changed[0], best[changed[0]])

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        assert text is not None
        return _replaced(prompt, place, best.get(text, text), "")

    where = f"{_role(prompts[members[0]], place)}, character {at}"
    example = (_around(changed[0], at), _around(best[changed[0]], at))
    return Candidate(kind, where, place, at, members, fix, example)


def _span(texts: list[str]) -> tuple[int, int] | None:
    """(common prefix, common suffix) of texts that differ in one span before a long common end; None where they do not."""
    shortest = min(map(len, texts))
    head = min(_common(texts[0], t) for t in texts[1:])
    tail = min(_common(texts[0][::-1], t[::-1]) for t in texts[1:])
    tail = min(tail, shortest - head)
    return (head, tail) if tail >= MIN_SHARED else None


def _moving_span(
    prompts: Sequence[Prompt],
    place: int,
    texts: list[str],
    span: tuple[int, int],
    owners: dict[str, list[int]],
) -> Candidate:
    head, tail = span
    members = sorted(i for t in texts for i in owners[t])
    middles = [t[head : len(t) - tail] for t in texts]
    kind = "retrieved_documents" if sum(map(len, middles)) / len(middles) >= _LONG_SPAN else "user_name"

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        assert text is not None
        return _replaced(
            prompt, place, text[:head] + text[len(text) - tail :], "\n" + text[head : len(text) - tail]
        )

    fixed = _place_text(fix(0, prompts[members[0]]), place) or ""
    where = f"{_role(prompts[members[0]], place)}, character {head}"
    return Candidate(kind, where, place, head, members, fix, (_around(texts[0], head), _around(fixed, head)))


def _common(a: str, b: str) -> int:
    """Characters that two texts begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# -- tools ------------------------------------------------------------------------------------------------------


def _dumps(value: Any, *, sort: bool = False) -> str:
    return json.dumps(value, sort_keys=sort, ensure_ascii=False, separators=(",", ":"))


def _sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _sorted_keys(value[k]) for k in sorted(value)}
    return [_sorted_keys(v) for v in value] if isinstance(value, list) else value


def _by_name(tools: list[Any]) -> list[Any]:
    return sorted(tools, key=lambda t: (_name(t), _dumps(t, sort=True)))


def _name(tool: Any) -> str:
    of = tool.get("function") if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool
    return str(of.get("name", "")) if isinstance(of, dict) else ""


def _tools(prompts: Sequence[Prompt]) -> list[Candidate]:
    orders: dict[str, Counter[str]] = defaultdict(Counter)  # the same tools in whatever order -> orders seen
    keys: dict[str, Counter[str]] = defaultdict(Counter)  # the same list -> serializations seen
    of: list[tuple[str, str] | None] = []
    for prompt in prompts:
        if not isinstance(prompt.tools, list) or not prompt.tools:
            of.append(None)
            continue
        listed = _dumps(prompt.tools, sort=True)
        same = _dumps(_by_name(prompt.tools), sort=True)
        orders[same][listed] += 1
        keys[listed][_dumps(prompt.tools)] += 1
        of.append((same, listed))
    found = []
    moved = [i for i, k in enumerate(of) if k is not None and len(orders[k[0]]) > 1]
    if moved:
        first = prompts[moved[0]].tools
        example = (", ".join(map(_name, first))[:160], ", ".join(map(_name, _by_name(first)))[:160])
        found.append(
            Candidate(
                "tool_order",
                "tools",
                None,
                0,
                moved,
                lambda _, p: p._replace(tools=_by_name(p.tools)),
                example,
            )
        )
    shuffled = [i for i, k in enumerate(of) if k is not None and len(keys[k[1]]) > 1]
    if shuffled:
        first = prompts[shuffled[0]].tools
        example = (_dumps(first)[:160], _dumps(_sorted_keys(first))[:160])
        found.append(
            Candidate(
                "json_key_order",
                "tools",
                None,
                0,
                shuffled,
                lambda _, p: p._replace(tools=_sorted_keys(p.tools)),
                example,
            )
        )
    return found


# -- history ------------------------------------------------------------------------------------------------------


def _history(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Turns of sessions that were dropped, or are not what was sent before; the fix sends what was sent."""
    restored: dict[int, list[Message]] = {}
    kinds: dict[str, list[int]] = {"history_truncated": [], "history_rewritten": []}
    places: dict[str, tuple[int, str, str, str]] = {}
    sent: dict[str, tuple[list[Message], list[str]]] = {}
    for i, prompt in enumerate(prompts):
        if prompt.session is None or not prompt.messages:
            continue
        now = prompt.messages
        keys = [_digest(m) for m in now]
        before = sent.get(prompt.session)
        if before is None:
            sent[prompt.session] = now, keys
            continue
        old, old_keys = before
        kind, whole = _compared(old, old_keys, now, keys)
        if kind is not None and whole is not None:
            restored[i] = whole
            kinds[kind].append(i)
            at = next((k for k, (a, b) in enumerate(zip(old_keys, keys, strict=False)) if a != b), 0)
            role = str(now[at].get("role", "unknown")) if at < len(now) else "unknown"
            texts = [(text_of(m[at]) or "") if at < len(m) else "" for m in (now, whole)]
            places.setdefault(kind, (at, role, _around(texts[0], 0), _around(texts[1], 0)))
            sent[prompt.session] = whole, [_digest(m) for m in whole]
        else:
            sent[prompt.session] = now, keys
    found = []
    for kind, members in kinds.items():
        if members:
            at, role, was, becomes = places[kind]
            where = f"message {at} ({role})"
            found.append(
                Candidate(
                    kind, where, at, 0, members, lambda i, p: p._replace(messages=restored[i]), (was, becomes)
                )
            )
    return found


def _compared(
    old: list[Message], old_keys: list[str], now: list[Message], keys: list[str]
) -> tuple[str | None, list[Message] | None]:
    """What became of a session's history, and the prompt as it would be had it been kept."""
    same = 0
    while same < min(len(keys), len(old_keys)) and keys[same] == old_keys[same]:
        same += 1
    if same == len(old_keys):
        return None, None  # it grew, as histories do
    heads = 0
    while heads < min(len(now), len(old)) and now[heads].get("role") in ("system", "developer"):
        heads += 1
    body, old_body = keys[heads:], old_keys[heads:]
    if keys[:heads] == old_keys[:heads] and len(old_body) > 1:
        for dropped in range(1, len(old_body)):
            kept = old_body[dropped:]
            if len(kept) <= len(body) and body[: len(kept)] == kept:
                return "history_truncated", [*old[: heads + dropped], *now[heads:]]
    roles = [m.get("role") for m in old]
    if len(now) > len(old) - 1 and [m.get("role") for m in now[: len(old)]] == roles[: len(now)]:
        agree = sum(a == b for a, b in zip(keys, old_keys, strict=False))
        # more is as it was than not, and what differs is no new question at the end
        if same < len(old) - 1 and 2 * agree >= len(old) and same >= heads:
            return "history_rewritten", [*old, *now[len(old) :]]
    return None, None


def _digest(message: Message) -> str:
    return hashlib.blake2b(
        _dumps(message, sort=True).encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()
