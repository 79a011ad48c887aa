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
_PIECE = re.compile(r"\s+|[^\s.,;:!?]+|[.,;:!?]")
_CAPITALIZED = re.compile(r"[A-Z][\w'’-]{0,40}|[.,;:!?]")

MIN_SHARED = 160  # characters that a family must share behind the place where it parts
_MOST_VERSIONS = 12  # of a template that are served at once
_OFTEN = 2  # sessions, on average, that send a version
_ALIKE = 0.6  # share of words in common
_MOST_OBJECTS = 20  # JSON objects of a text whose keys are sorted
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
    choice: str = ""  # of candidates with the same choice the one that saves most stands


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
    """Texts at one place of the prompt (0: the first message, 1: the second) that say almost the same and part early."""
    owners: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        text = _place_text(prompt, place)
        if text:
            owners[text].append(i)
    texts = sorted(owners, key=lambda t: owners[t][0])[:_MOST_TEXTS]
    found, texts = _values(prompts, place, texts, owners)
    for family in _families([t for t in texts if len(t) >= MIN_SHARED]):
        found.extend(_of_family(prompts, place, family, owners))
    return found


class _Value(NamedTuple):
    kind: str
    start: int
    end: int


def _values_in(text: str) -> list[_Value]:
    """The values of a text that may change with every request, in order; where two patterns match the earlier kind counts."""
    found: list[_Value] = []
    for kind, pattern in VOLATILE.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            if all(end <= v.start or v.end <= start for v in found):
                found.append(_Value(kind, start, end))
    return sorted(found, key=lambda v: v.start)


def _values(
    prompts: Sequence[Prompt], place: int, texts: list[str], owners: dict[str, list[int]]
) -> tuple[list[Candidate], list[str]]:
    """Candidates for values that differ between texts which are otherwise equal, and the texts that are left, one for each such group."""
    groups: dict[str, list[str]] = defaultdict(list)
    values = {text: _values_in(text) for text in texts}
    for text in texts:
        groups[_without(text, values[text], "\0")].append(text)
    varying: dict[str, dict[str, list[_Value]]] = defaultdict(dict)  # kind -> text -> its values that vary
    rest = []
    for group in groups.values():
        if len(group) < 2:
            rest += group
            continue
        for k in range(len(values[group[0]])):
            if len({t[values[t][k].start : values[t][k].end] for t in group}) > 1:
                for t in group:
                    varying[values[t][k].kind].setdefault(t, []).append(values[t][k])
    found = []
    for kind, of in varying.items():
        members = sorted(i for t in of for i in owners[t])
        first = max(of, key=lambda t: len(owners[t]))
        at = of[first][0].start
        where = f"{_role(prompts[members[0]], place)}, character {at}"
        for whole_line in (False, True):
            fix = _moving(place, of, whole_line)
            fixed = _place_text(fix(0, prompts[owners[first][0]]), place) or ""
            example = _around(first, at), _around(fixed, min(at, len(fixed)))
            found.append(Candidate(kind, where, place, at, members, fix, example, f"{kind} {place}"))
    return found, rest


def _without(text: str, values: Sequence[_Value], instead: str = "") -> str:
    parts, at = [], 0
    for value in values:
        parts.append(text[at : value.start])
        at = value.end
    return instead.join([*parts, text[at:]])


def _moving(place: int, of: dict[str, list[_Value]], whole_line: bool) -> Callable[[int, Prompt], Prompt]:
    """Move values, or the lines that they stand in, to the end of the last message."""

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        if text is None or text not in of:
            return prompt
        spans = [_line(text, v) if whole_line else v for v in of[text]]
        spans = [s for i, s in enumerate(spans) if i == 0 or s.start >= spans[i - 1].end]
        moved = " ".join(text[s.start : s.end].strip() for s in spans)
        return _replaced(prompt, place, _without(text, spans), "\n" + moved)

    return fix


def _line(text: str, value: _Value) -> _Value:
    """The line of a value, with the empty lines behind it."""
    start = text.rfind("\n", 0, value.start) + 1
    end = text.find("\n", value.end)
    end = len(text) if end < 0 else end
    while end < len(text) and text[end] == "\n":
        end += 1
    return _Value(value.kind, start, end)


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
    """What tells the texts of a family apart: white space, keys of JSON, a span in the middle, versions."""
    found = []
    rest = family
    for kind, plain in (("whitespace", _collapsed), ("json_key_order", _canonical)):
        groups: dict[str, list[str]] = defaultdict(list)
        for text in rest:
            groups[plain(text)].append(text)
        loose = [g for g in groups.values() if len(g) > 1]
        if loose:
            found.append(_one_version(prompts, place, kind, loose, owners))
            rest = [max(g, key=lambda t: len(owners[t])) for g in groups.values()]
    if len(rest) < 2:
        return found
    head, tail = _span(rest)
    if tail < MIN_SHARED:  # nothing is shared behind the place where they part
        return found
    middles = {t: t[head : len(t) - tail] for t in rest}
    said = {t: m for t, m in middles.items() if m.strip()}
    sessions = [{prompts[i].session or f"#{i}" for i in owners[t]} for t in said]
    served = len(rest) <= _MOST_VERSIONS and sum(map(len, sessions)) >= _OFTEN * len(said)
    if len(said) > 1 and _are_names(list(said.values())):
        found.append(_moving_span(prompts, place, "user_name", said, owners, head))
    elif len(said) > 1 and len(rest) <= _MOST_VERSIONS and (served or _alike(list(said.values()))):
        found.append(_one_version(prompts, place, "template_drift", [rest], owners))
    else:
        long = sum(map(len, said.values())) >= _LONG_SPAN * len(said)
        found.append(
            _moving_span(prompts, place, "retrieved_documents" if long else "user_name", said, owners, head)
        )
    return found


def _alike(middles: list[str]) -> bool:
    """Whether spans are versions of one another rather than different texts: they have words in common."""
    words = [set(_WORD.findall(m)) for m in middles]
    shares = [len(w & words[0]) / max(1, len(w | words[0])) for w in words[1:]]
    return sum(shares) >= _ALIKE * len(shares)


def _collapsed(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _canonical(text: str) -> str:
    """The text with the keys of its first JSON objects sorted."""
    parts, at, seen = [], 0, 0
    decoder = json.JSONDecoder()
    while seen < _MOST_OBJECTS and (start := text.find('{"', at)) >= 0:
        seen += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            parts.append(text[at : start + 1])
            at = start + 1
            continue
        parts += [text[at:start], _dumps(value, sort=True)]
        at = end
    return "".join([*parts, text[at:]])


def _are_names(middles: list[str]) -> bool:
    """Whether texts differ in capitalized words only."""
    pieces = [_PIECE.findall(m) for m in middles]
    head, tail = _span(pieces)
    words = [p for piece in pieces for p in piece[head : len(piece) - tail] if p.strip()]
    return 0 < len(words) <= 4 * len(middles) and all(_CAPITALIZED.fullmatch(w) for w in words)


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
    at = min(_common(t, best[t]) for t in changed)
    shown = min(changed, key=lambda t: _common(t, best[t]))

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        return prompt if text is None or text not in best else _replaced(prompt, place, best[text], "")

    where = f"{_role(prompts[members[0]], place)}, character {at}"
    example = _around(shown, at), _around(best[shown], at)
    return Candidate(kind, where, place, at, members, fix, example)


def _span(texts: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(common head, common tail) of texts, as characters where they are strings, cut where words end; or of lists of pieces."""
    first = max(texts, key=len)
    head = min(_common(first, t) for t in texts)
    tail = min(_common(first[::-1], t[::-1]) for t in texts)
    if isinstance(first, str):
        while head and not (first[head - 1].isspace() or first[head : head + 1].isspace()):
            head -= 1
        while 0 < tail < len(first) and not (_ends_word(first[-tail]) or first[-tail - 1].isspace()):
            tail -= 1
    return head, min(tail, min(map(len, texts)) - head)


def _ends_word(character: str) -> bool:
    return character.isspace() or character in ".,;:!?"


def _moving_span(
    prompts: Sequence[Prompt],
    place: int,
    kind: str,
    middles: dict[str, str],
    owners: dict[str, list[int]],
    head: int,
) -> Candidate:
    members = sorted(i for t in middles for i in owners[t])

    def fix(_: int, prompt: Prompt) -> Prompt:
        text = _place_text(prompt, place)
        if text is None or text not in middles:
            return prompt
        middle = middles[text]
        return _replaced(prompt, place, text[:head] + text[head + len(middle) :], "\n" + middle.strip())

    first = max(middles, key=lambda t: len(owners[t]))
    fixed = _place_text(fix(0, prompts[owners[first][0]]), place) or ""
    where = f"{_role(prompts[members[0]], place)}, character {head}"
    return Candidate(kind, where, place, head, members, fix, (_around(first, head), _around(fixed, head)))


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Characters, or pieces, that two texts begin with in common."""
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
    lists: dict[str, list[Any]] = {}
    of: list[tuple[str, str] | None] = []
    for prompt in prompts:
        if not isinstance(prompt.tools, list) or not prompt.tools:
            of.append(None)
            continue
        plain, listed = _dumps(prompt.tools), _dumps(prompt.tools, sort=True)
        same = _dumps(_by_name(prompt.tools), sort=True)
        orders[same][listed] += 1
        keys[listed][plain] += 1
        lists.setdefault(plain, prompt.tools)
        of.append((same, listed))

    def usual_order(_: int, p: Prompt) -> Prompt:
        usual = json.loads(orders[_dumps(_by_name(p.tools), sort=True)].most_common(1)[0][0])
        place = {_dumps(tool, sort=True): k for k, tool in enumerate(usual)}
        return p._replace(tools=sorted(p.tools, key=lambda t: place[_dumps(t, sort=True)]))

    def usual_keys(_: int, p: Prompt) -> Prompt:
        return p._replace(tools=lists[keys[_dumps(p.tools, sort=True)].most_common(1)[0][0]])

    found = []
    moved = [i for i, k in enumerate(of) if k is not None and len(orders[k[0]]) > 1]
    if moved:
        odd = next((i for i in moved if usual_order(i, prompts[i]).tools != prompts[i].tools), moved[0])
        example = tuple(
            ", ".join(map(_name, p.tools))[:160] for p in (prompts[odd], usual_order(odd, prompts[odd]))
        )
        found.append(Candidate("tool_order", "tools", None, 0, moved, usual_order, (example[0], example[1])))
    shuffled = [i for i, k in enumerate(of) if k is not None and len(keys[k[1]]) > 1]
    if shuffled:
        odd = next(
            (i for i in shuffled if _dumps(usual_keys(i, prompts[i]).tools) != _dumps(prompts[i].tools)),
            shuffled[0],
        )
        example = tuple(_dumps(p.tools)[:160] for p in (prompts[odd], usual_keys(odd, prompts[odd])))
        found.append(
            Candidate("json_key_order", "tools", None, 0, shuffled, usual_keys, (example[0], example[1]))
        )
    return found


# -- history ------------------------------------------------------------------------------------------------------


class _Sent(NamedTuple):
    """The last request of a session."""

    raw: list[Message]
    keys: list[str]
    whole: list[Message]  # with all of its history as it was sent first
    whole_keys: list[str]
    kind: str | None  # what became of the history, so far


def _history(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Turns of sessions that were dropped, or are not what was sent before; the fix sends what was sent."""
    restored: dict[int, list[Message]] = {}
    kinds: dict[str, list[int]] = {"history_truncated": [], "history_rewritten": []}
    places: dict[str, tuple[int, str, str, str]] = {}
    sent: dict[str, _Sent] = {}
    for i, prompt in enumerate(prompts):
        if prompt.session is None or not prompt.messages:
            continue
        now = prompt.messages
        keys = [_digest(m) for m in now]
        before = sent.get(prompt.session)
        kind, whole = (None, now) if before is None else _compared(before, now, keys)
        sent[prompt.session] = _Sent(now, keys, whole, [_digest(m) for m in whole], kind)
        if kind is None or before is None:
            continue
        restored[i] = whole
        kinds[kind].append(i)
        at = next((k for k, (a, b) in enumerate(zip(before.keys, keys, strict=False)) if a != b), None)
        if at is not None and kind not in places:
            role = str(now[at].get("role", "unknown"))
            was, becomes = ((text_of(m[at]) or _dumps(m[at])) if at < len(m) else "" for m in (now, whole))
            places[kind] = at, role, _around(was, 0), _around(becomes, 0)
    found = []
    for kind, members in kinds.items():
        if members and kind in places:
            at, role, was, becomes = places[kind]
            where = f"message {at} ({role})"
            found.append(
                Candidate(
                    kind, where, at, 0, members, lambda i, p: p._replace(messages=restored[i]), (was, becomes)
                )
            )
    return found


def _compared(before: _Sent, now: list[Message], keys: list[str]) -> tuple[str | None, list[Message]]:
    """What became of a session's history, and the request as it would be had all of it been kept.

    System messages do not count: what changes in them is another matter.
    """
    heads = _heads(now)
    raw_heads, old_heads = _heads(before.raw), _heads(before.whole)
    body, raw = keys[heads:], before.keys[raw_heads:]
    old, old_keys = before.whole[old_heads:], before.whole_keys[old_heads:]
    if body[: len(raw)] == raw:  # it grew, as histories do
        return before.kind, [*now[:heads], *old, *now[heads + len(raw) :]]
    same = 0
    while same < min(len(body), len(old_keys)) and body[same] == old_keys[same]:
        same += 1
    if same == len(old_keys):
        return None, now
    if (
        body and body[0] in old_keys[1:]
    ):  # what is kept may be all that is new since, but for its first message
        at = len(old_keys) - 1 - old_keys[::-1].index(body[0])
        if at and all(a == b for a, b in zip(old_keys[at:], body, strict=False)):
            return "history_truncated", [*now[:heads], *old[:at], *now[heads:]]
    # a last message that is another, with nothing behind it, is a question asked again
    goes_on = same < len(old) - 1 or len(body) > len(old)
    roles = [[m.get("role") for m in some] for some in (old, now[heads : heads + len(old)])]
    if same and goes_on and roles[0] == roles[1]:
        return "history_rewritten", [*now[:heads], *old, *now[heads + len(old) :]]
    if same == 0 and len(body) > 1 and now[heads + 1].get("role") == "assistant":
        summary = text_of(now[heads]) or ""
        told = [(text_of(m) or "")[:_QUOTED] for m in old]
        if any(len(t) == _QUOTED and t in summary for t in told):
            kept = body[1:]
            again = next(
                (k for k in range(min(len(kept), len(old_keys)), 0, -1) if old_keys[-k:] == kept[:k]), 0
            )
            return "history_rewritten", [*now[:heads], *old, *now[heads + 1 + again :]]
    return None, now


def _heads(messages: list[Message]) -> int:
    """System messages that a request begins with."""
    n = 0
    while n < len(messages) and messages[n].get("role") in ("system", "developer"):
        n += 1
    return n


_QUOTED = 24  # characters of an earlier turn that a summary repeats


def _digest(message: Message) -> str:
    """Equal for messages that templates show alike: they read the arguments of calls."""
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message = {**message, "tool_calls": [_read_call(c) for c in calls]}
    return hashlib.blake2b(
        _dumps(message, sort=True).encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()


def _read_call(call: Any) -> Any:
    of = call.get("function") if isinstance(call, dict) else None
    if not isinstance(of, dict) or not isinstance(of.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**of, "arguments": json.loads(of["arguments"])}}
    except ValueError:
        return call
