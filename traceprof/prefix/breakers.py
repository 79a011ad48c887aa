"""What keeps prompts from sharing more than they do, found in their messages, and what to change.

    near duplicates  texts that say almost the same and part early (MinHash and locality-sensitive hashing): values that change with
                     every request, documents, white space or versions of a template, before text that is shared
    tools            the same tools in another order, or with their keys in another order
    history          turns of a session that are dropped or said differently than they were sent before

A candidate names a kind, a place and the prompts that it touches, and has a fix: a function from prompt to prompt. Nothing
here says what a fix would save: `traceprof.remedies` measures that, by sending the fixed prompts through the tree again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
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
_DECODER = json.JSONDecoder()

MIN_SHARED = 160  # characters behind a differing span that are worth sharing, where no tools follow
_SHORT_END = 40  # characters that shorter texts must end with in common
_LONG_SPAN = 120  # characters, from which a differing span is a document
_NAME_WORDS = 4
_FEW_VERSIONS = 3  # of a text that differ in a few words: versions of a template; more are values
_MOST_VERSIONS = 12  # of a template, where they are alike
_OFTEN = 4  # requests, on average, that send a version
_ALIKE = 0.5  # words that versions share in what differs, and in all of it where more than one span differs
_ALL_ALIKE = 0.9
_MOST_OBJECTS = 16  # JSON objects of a text whose keys are looked at
_MOST_TEXTS = 4_000  # distinct texts of one place that are compared
_HEAD, _TAIL = 24_000, 8_000  # characters at both ends of a text in which values are looked for
_MOST_LINES = 8  # lines of a text that other texts may do without
_COMPARED = 6_000  # characters of a text that decide whether it is like another
_SHINGLE = 4  # words
_PERMUTATIONS = 64
_BANDS = (10, 6)  # and rows in a band: texts that share about 0.6 of their shingles meet
_THREADS = 4  # conversations of one session that go on side by side
_TOLD = 20  # characters, from which a message is not sent twice by chance
_QUOTED = 24  # characters of an earlier message that a summary of it repeats


class Prompt(NamedTuple):
    """A request as it was sent: messages and tools, or one text; neither where that is not known."""

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

    @property
    def place(self) -> int | None:
        """The message that it stands in in every prompt; a history has no such place."""
        return None if self.kind.startswith("history") else self.message


def find(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Candidates among prompts in the order of their arrival, the most frequent first."""
    found = [*_tools(prompts), *_history(prompts)]
    for place in PLACES:
        found += _near_duplicates(prompts, place)
    return sorted(found, key=lambda c: -len(c.prompts))


def mended(prompts: Sequence[Prompt], wanted: Collection[tuple[str, int | None]]) -> list[Prompt]:
    """Prompts with the remedies of some (kind, place of the candidate), one after another: each changes what the next one finds.

    Histories come first, since their remedy knows what was sent, and values of all kinds leave their place at once.
    """
    now = list(prompts)

    def apply(candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            for i in candidate.prompts:
                now[i] = candidate.fix(i, now[i])

    if any(kind.startswith("history") for kind, _ in wanted):
        apply([c for c in _history(now) if (c.kind, None) in wanted])
    for kind in ("tool_order", "json_key_order"):
        if (kind, None) in wanted:
            apply([c for c in _tools(now) if c.kind == kind])
    for place in PLACES:
        kinds = {kind for kind, at in wanted if at == place}
        steps = [kinds & set(step) for step in _STEPS]
        # values that are gone may show white space that they hid, and the other way round
        for step in [one for one in steps if one] * 2 if len(kinds) > 1 else steps:
            if step:
                apply(_near_duplicates(now, place, step))
    return now


PLACES = (0, 1)  # messages that are compared
_SPANS = ("user_name", "retrieved_documents", "template_drift")
_STEPS = (("json_key_order",), ("whitespace",), tuple(VOLATILE), _SPANS)


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
    """The text of a message that the application wrote, not the model or a tool."""
    if prompt.messages is None:
        return prompt.text if place == 0 else None
    if place >= len(prompt.messages) or prompt.messages[place].get("role") in ("assistant", "tool"):
        return None
    return text_of(prompt.messages[place])


def _replaced(prompt: Prompt, place: int, text: str, moved: str = "") -> Prompt:
    """The prompt with another text at a place, and what was taken out on a line of its own at the end of the last message."""
    if prompt.messages is None:
        return prompt._replace(text=f"{text}\n{moved}" if moved else text)
    messages = list(prompt.messages)
    messages[place] = _with_text(messages[place], text)
    if moved:
        last = text_of(messages[-1])
        if last is None:  # a message of parts
            messages.append({"role": "user", "content": moved})
        else:
            messages[-1] = _with_text(messages[-1], f"{last}\n{moved}")
    return prompt._replace(messages=messages)


def _where(prompt: Prompt, place: int, at: int) -> str:
    if prompt.messages is None:
        return f"prompt, character {at}"
    return f"{prompt.messages[place].get('role', 'unknown')} message, character {at}"


def shown(prompt: Prompt, candidate: Candidate) -> str:
    """The place of a candidate in a prompt, in about 120 characters."""
    if candidate.kind.startswith("history"):
        at = candidate.message or 0
        return _said((prompt.messages or [])[at : at + 1])
    if candidate.message is None:
        listed = prompt.tools if isinstance(prompt.tools, list) else []
        return ", ".join(map(_name, listed))[:160] if candidate.kind == "tool_order" else _dumps(listed)[:160]
    return _around(_place_text(prompt, candidate.message) or "", candidate.offset or 0)


def _around(text: str, at: int, width: int = 120) -> str:
    start = max(0, at - 40)
    return _SPACE.sub(" ", text[start : start + width]).strip()


# -- near duplicates --------------------------------------------------------------------------------------------


class _Texts(NamedTuple):
    """The distinct texts of one message of the prompts."""

    prompts: Sequence[Prompt]
    place: int
    owners: dict[str, list[int]]  # text -> prompts that have it

    def members(self, texts: Sequence[str]) -> list[int]:
        """The prompts that have one of these texts."""
        return sorted(i for t in texts for i in self.owners[t])

    def usual(self, texts: Sequence[str]) -> str:
        """The most frequent of some texts, the earliest of those that are."""
        return max(texts, key=lambda t: (len(self.owners[t]), -self.owners[t][0]))

    def is_system(self, text: str) -> bool:
        """Whether it is a system prompt."""
        messages = self.prompts[self.owners[text][0]].messages
        return messages is not None and messages[self.place].get("role") in ("system", "developer")

    def before_tools(self, text: str) -> bool:
        """Whether tools may stand behind a text: templates put them into the system prompt."""
        return bool(self.prompts[self.owners[text][0]].tools) and self.is_system(text)

    def sessions(self, text: str) -> int:
        """Sessions that have a text; requests without one stand for themselves."""
        return len({self.prompts[i].session or i for i in self.owners[text]})

    def changing(
        self, kind: str, changed: dict[str, tuple[str, str]], texts: Sequence[str], at: int
    ) -> Candidate:
        """A candidate whose fix makes other texts of some: text -> (what it becomes, what moves to the end of the prompt)."""
        place = self.place

        def fix(_: int, prompt: Prompt) -> Prompt:
            text = _place_text(prompt, place)
            if text is None or text not in changed:
                return prompt
            return _replaced(prompt, place, *changed[text])

        members = self.members(texts)
        first = next((t for t in changed if _common(t, changed[t][0]) == at), next(iter(changed)))
        example = _around(first, at), _around(changed[first][0], at)
        return Candidate(kind, _where(self.prompts[members[0]], place, at), place, at, members, fix, example)


def _near_duplicates(
    prompts: Sequence[Prompt], place: int, only: Collection[str] | None = None
) -> list[Candidate]:
    """Texts of one message that say almost the same and part early; of some kinds only, values of any of them as one candidate."""
    owners: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        if text := _place_text(prompt, place):
            owners[text].append(i)
    texts = _Texts(prompts, place, owners)
    found: list[Candidate] = []
    rest = list(owners)
    groups = [g for g in _grouped([t for t in rest if '{"' in t], _canonical) if len(g) > 1]
    if groups:
        found.append(_one_version(texts, "json_key_order", groups))
        gone = {t for g in groups for t in g if t != texts.usual(g)}
        rest = [t for t in rest if t not in gone]
    masks = {t: _digest_of(_masked(t, _values_in(t))) for t in rest}
    varying, gone = _values(texts, rest, masks, only)
    found += varying
    rest = [t for t in rest if t not in gone]
    groups = _grouped(rest, lambda t: _digest_of(" ".join(_masked(t, _values_in(t)).split())))
    loose = [g for g in groups if len({masks[t] for t in g}) > 1]
    if loose:
        found.append(_one_version(texts, "whitespace", loose, _respaced))
    if only is None or any(kind in _SPANS for kind in only):
        # one of each group stands for it
        rest = [texts.usual(g) for g in groups]
        rest = [t for t in rest if len(t) >= MIN_SHARED or texts.before_tools(t)][:_MOST_TEXTS]
        for family in _families(rest):
            found += _of_family(texts, family)
    return [c for c in found if only is None or c.kind in only]


def _grouped(texts: Sequence[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Texts of which the key is the same, in order."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for text in texts:
        groups[key(text)].append(text)
    return list(groups.values())


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class _Value(NamedTuple):
    """What may change with every request."""

    kind: str
    start: int
    end: int


@functools.lru_cache(maxsize=1 << 15)
def _values_in(text: str) -> list[_Value]:
    """The values of a text, in order; where two kinds would do, the earlier one counts. In a long text: those at its ends."""
    pieces = [(0, text)]
    if len(text) > _HEAD + _TAIL:
        pieces = [(0, text[:_HEAD]), (len(text) - _TAIL, text[-_TAIL:])]
    found: list[_Value] = []
    for at, piece in pieces:
        taken = bytearray(len(piece))
        for kind, pattern in VOLATILE.items():
            for match in pattern.finditer(piece):
                start, end = match.span()
                if taken.find(1, start, end) < 0:
                    taken[start:end] = b"\1" * (end - start)
                    found.append(_Value(kind, at + start, at + end))
    return sorted(found, key=lambda v: v.start)


def _masked(text: str, values: Sequence[_Value], without: Sequence[tuple[int, int]] = ()) -> str:
    r"""The text with its values masked, and without some spans that hold values whole.

    >>> text = "Today is 2026-03-02, dear customer"
    >>> _masked(text, _values_in(text)), _masked(text, _values_in(text), [(0, 21)])
    ('Today is \x00, dear customer', 'dear customer')
    """
    spans = [(v.start, v.end, "\0") for v in values if not any(a <= v.start < b for a, b in without)]
    parts, at = [], 0
    for a, b, instead in sorted([*spans, *((a, b, "") for a, b in without)]):
        parts += [text[at:a], instead]
        at = b
    return "".join([*parts, text[at:]])


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """(what is left of a text without spans, what was in them)"""
    left, taken, at = [], [], 0
    for a, b in spans:
        left.append(text[at:a])
        taken.append(text[a:b].strip())
        at = b
    return "".join([*left, text[at:]]), " ".join(taken)


def _lines(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The whole lines in which spans stand, with the line breaks behind them."""
    found: list[tuple[int, int]] = []
    for a, b in spans:
        start, end = text.rfind("\n", 0, a) + 1, text.find("\n", b)
        end = len(text) if end < 0 else end
        while end < len(text) and text[end] == "\n":
            end += 1
        if not found or start >= found[-1][1]:
            found.append((start, end))
    return found


def _values(
    texts: _Texts, rest: Sequence[str], masks: dict[str, str], only: Collection[str] | None
) -> tuple[list[Candidate], set[str]]:
    """Values that differ between texts which are otherwise the same, kind by kind, or those of some kinds as one.

    Those that are the same in all of them stay. Where other texts are the same but for the whole line, the line moves; these texts are
    returned, too.
    """
    changed: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)  # kind -> text -> what becomes of it
    start: dict[str, int] = {}
    gone: set[str] = set()
    known = set(masks.values())
    for group in _grouped(rest, lambda t: (masks[t], len(_values_in(t)))):
        first = group[0]
        kinds = [v.kind for v in _values_in(first)]
        spans = {t: [(v.start, v.end) for v in _values_in(t)] for t in group}

        def missing(cuts: Sequence[tuple[int, int]], text: str = first) -> bool:
            """Whether other texts are the same but for these lines."""
            return _digest_of(_masked(text, _values_in(text), _lines(text, cuts))) in known

        if len(group) > 1:
            varying = [k for k in range(len(kinds)) if len({t[slice(*spans[t][k])] for t in group}) > 1]
        elif texts.sessions(first) == 1:  # it may be the only one that has the line at all
            varying = [k for k in range(min(len(kinds), _MOST_LINES)) if missing([spans[first][k]])]
        else:
            continue
        by_kind: dict[str, list[int]] = defaultdict(list)
        for k in varying:
            if only is None:
                by_kind[kinds[k]].append(k)
            elif kinds[k] in only:
                by_kind[min(only)].append(k)
        for kind, slots in by_kind.items():
            whole = len(slots) <= _MOST_LINES and missing([spans[first][k] for k in slots])
            gone.update(group if whole else ())
            for t in group:
                cuts = [spans[t][k] for k in slots]
                changed[kind][t] = _cut(t, _lines(t, cuts) if whole else cuts)
            start.setdefault(kind, spans[first][slots[0]][0])
    return [texts.changing(kind, of, list(of), start[kind]) for kind, of in changed.items()], gone


def _families(texts: Sequence[str]) -> list[list[str]]:
    """Groups of at least two texts that are near duplicates, or end with the same long text, in a fixed order."""
    if len(texts) < 2:
        return []
    from datasketch import MinHash, MinHashLSH

    first: dict[str, int] = {}  # end of a text -> the first text with it
    leader = list(range(len(texts)))

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_BANDS)
    blank = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
    for i, text in enumerate(texts):
        mask = _masked(text, _values_in(text))
        end = mask[-(MIN_SHARED if len(text) >= MIN_SHARED else _SHORT_END) :]
        leader[root(i)] = root(first.setdefault(end, i))
        words = mask[:_COMPARED].split()
        made = blank.copy()
        made.update_batch(
            [
                " ".join(words[k : k + _SHINGLE]).encode("utf-8", "surrogatepass")
                for k in range(max(1, len(words) - _SHINGLE + 1))
            ]
        )
        near = index.query(made)
        if near:
            leader[root(i)] = root(min(near))
        else:
            index.insert(i, made)
    groups: dict[int, list[str]] = defaultdict(list)
    for i, text in enumerate(texts):
        groups[root(i)].append(text)
    return [g for g in groups.values() if len(g) > 1]


def _of_family(texts: _Texts, family: list[str]) -> list[Candidate]:
    """What tells the texts of a family apart: a span in the middle, or versions of a template."""
    head, tail = _ends(family)
    shared = tail >= MIN_SHARED or all(map(texts.before_tools, family))
    middles = {t: t[head : len(t) - tail] for t in family}
    often = sum(len(texts.owners[t]) for t in family) >= _OFTEN * len(family)
    if often and len(family) <= _MOST_VERSIONS:
        if not shared:
            alike = _alike(family) >= _ALL_ALIKE
        else:
            alike = _are_versions(list(middles.values()), _FEW_VERSIONS if texts.is_system(family[0]) else 0)
        if alike:
            return [_one_version(texts, "template_drift", [family])]
    if not shared:
        return []
    changed = {t: (t[:head] + t[len(t) - tail :], m.strip()) for t, m in middles.items() if m.strip()}
    kind = "retrieved_documents" if max(map(len, middles.values())) >= _LONG_SPAN else "user_name"
    return [texts.changing(kind, changed, list(changed), head)]


def _one_version(
    texts: _Texts,
    kind: str,
    groups: Sequence[Sequence[str]],
    become: Callable[[str, str], str] = lambda text, usual: usual,
) -> Candidate:
    """All texts of a group become like the most frequent one."""
    changed = {}
    for group in groups:
        usual = texts.usual(group)
        changed.update({t: (become(t, usual), "") for t in group if t != usual})
    differs = {t: c for t, c in changed.items() if c[0] != t} or changed
    at = min(_common(t, c[0]) for t, c in differs.items())
    return texts.changing(kind, differs, [t for g in groups for t in g], at)


def _respaced(text: str, like: str) -> str:
    """The words of a text with the white space of another one.

    >>> _respaced("Today is  Monday", "Today is Sunday")
    'Today is Monday'
    """
    words, gaps = _WORD.findall(text), _WORD.split(like)
    if len(gaps) != len(words) + 1:
        return text
    return gaps[0] + "".join(word + gap for word, gap in zip(words, gaps[1:], strict=True))


def _canonical(text: str) -> str:
    """The text with the first JSON objects in it written anew, keys sorted.

    >>> _canonical('settings {"b": 1, "a": 2}')
    'settings {"a":2,"b":1}'
    """
    out, done, at = [], 0, text.find('{"')
    for _ in range(_MOST_OBJECTS):
        if at < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, at)
            out += [text[done:at], _dumps(value, sort=True)]
            done = end
        except (ValueError, RecursionError):
            end = at + 1
        at = text.find('{"', end)
    return "".join([*out, text[done:]])


def _are_versions(middles: Sequence[str], few: int) -> bool:
    """Whether the spans in which texts differ do so as versions of a template do, not in a name or in documents."""
    if _are_names([m for m in middles if m.strip()]):
        return False
    if sum(map(len, middles)) / len(middles) < _LONG_SPAN:
        return len(middles) <= few
    return _alike(middles) >= _ALIKE


def _alike(texts: Sequence[str]) -> float:
    """The least share of words that the first text has in common with another one."""
    bags = [Counter(_WORD.findall(t)) for t in texts]
    return min(((bags[0] & b).total() / max(1, (bags[0] | b).total()) for b in bags[1:]), default=1.0)


def _are_names(texts: Sequence[str]) -> bool:
    """Whether texts differ in a few capitalized words only.

    >>> _are_names(["for Mia Li, who", "for Raj Sanchez, who"]), _are_names(["book", "change"])
    (True, False)
    """
    if len(texts) < 2 or max(map(len, texts)) > _LONG_SPAN:
        return False
    head, tail = _ends(texts)
    names = [t[head : len(t) - tail].split() for t in texts]
    return all(0 < len(n) <= _NAME_WORDS and all(w[0].isupper() for w in n) for n in names)


def _ends(texts: Sequence[str]) -> tuple[int, int]:
    """Characters with which all texts begin, and with which they end, cut between words.

    >>> _ends(["call 11 now", "call 12 now"])
    (5, 4)
    """
    first, backwards = texts[0], texts[0][::-1]
    head = min(_common(first, t) for t in texts[1:])
    while any(_in_word(t, head) for t in texts):
        head -= 1
    tail = min(_common(backwards, t[::-1]) for t in texts[1:])
    tail = min(tail, min(map(len, texts)) - head)
    while any(_in_word(t, len(t) - tail) for t in texts):
        tail -= 1
    return head, tail


def _in_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _common(a: str, b: str) -> int:
    """Characters that two texts begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# -- tools ------------------------------------------------------------------------------------------------------


def _dumps(value: Any, *, sort: bool = False) -> str:
    return json.dumps(value, sort_keys=sort, ensure_ascii=False, separators=(",", ":"))


def _name(tool: Any) -> str:
    of = tool.get("function") if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool
    return str(of.get("name", "")) if isinstance(of, dict) else ""


class _ToolList(NamedTuple):
    """A list of tools as it was sent, and what of it stays the same however it is written."""

    tools: list[Any]
    plain: str  # as it was sent
    listed: str  # with sorted keys
    each: list[str]  # of each tool
    same: str  # with sorted keys, in a fixed order


def _tool_list(tools: list[Any]) -> _ToolList:
    each = [_dumps(t, sort=True) for t in tools]
    return _ToolList(tools, _dumps(tools), "\n".join(each), each, "\n".join(sorted(each)))


def _tools(prompts: Sequence[Prompt]) -> list[Candidate]:
    """The same tools in another order, or with their keys in another order; the fix is what is most frequent."""
    orders: dict[str, Counter[str]] = defaultdict(Counter)  # the same tools in whatever order -> orders seen
    keys: dict[str, Counter[str]] = defaultdict(Counter)  # the same list -> ways to write it
    lists: dict[str, _ToolList] = {}  # as written, and by sorted keys
    read: dict[int, _ToolList] = {}  # prompts may share their lists
    of: dict[int, _ToolList] = {}
    for i, prompt in enumerate(prompts):
        if isinstance(prompt.tools, list) and prompt.tools:
            one = of[i] = read.get(id(prompt.tools)) or read.setdefault(
                id(prompt.tools), _tool_list(prompt.tools)
            )
            orders[one.same][one.listed] += 1
            keys[one.listed][one.plain] += 1
            lists.setdefault(one.plain, one)
            lists.setdefault(one.listed, one)
    usual_order = {same: lists[seen.most_common(1)[0][0]] for same, seen in orders.items()}
    usual_keys = {listed: lists[seen.most_common(1)[0][0]] for listed, seen in keys.items()}

    def ordered(i: int, prompt: Prompt) -> Prompt:
        now = of[i] if prompt.tools is of[i].tools else _tool_list(prompt.tools)
        usual = usual_order.get(now.same)
        if usual is None or usual.listed == now.listed:
            return prompt
        place = {tool: k for k, tool in enumerate(usual.each)}
        order = sorted(range(len(now.each)), key=lambda k: place[now.each[k]])
        return prompt._replace(tools=[now.tools[k] for k in order])

    def written(i: int, prompt: Prompt) -> Prompt:
        now = of[i] if prompt.tools is of[i].tools else _tool_list(prompt.tools)
        usual = usual_keys.get(now.listed)
        return prompt if usual is None or usual.plain == now.plain else prompt._replace(tools=usual.tools)

    found = []
    moved = [i for i, one in of.items() if len(orders[one.same]) > 1]
    rewritten = [i for i, one in of.items() if len(keys[one.listed]) > 1]
    for kind, members, fix in (("tool_order", moved, ordered), ("json_key_order", rewritten, written)):
        if members:
            made = Candidate(kind, "tools", None, 0, members, fix, ("", ""))
            odd = next((i for i in members if fix(i, prompts[i]) is not prompts[i]), members[0])
            example = shown(prompts[odd], made), shown(fix(odd, prompts[odd]), made)
            found.append(made._replace(example=example))
    return found


# -- history ------------------------------------------------------------------------------------------------------


class _Sent(NamedTuple):
    """The last request of a conversation."""

    keys: list[str]  # of its messages but the system's
    whole: list[Message]  # those, with all of the history as it was sent first
    whole_keys: list[str]
    kind: str | None  # what became of that history


def _history(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Turns of sessions that were dropped, or are not what was sent before; the fix sends what was sent.

    System messages do not count: what changes in them is another matter.
    """
    restored: dict[int, list[Message]] = {}
    kinds: dict[str, list[int]] = {"history_truncated": [], "history_rewritten": []}
    places: dict[str, tuple[int, str, tuple[str, str]]] = {}
    sessions: dict[str, list[_Sent]] = defaultdict(list)
    digests: dict[int, str] = {}  # prompts may share their messages
    for i, prompt in enumerate(prompts):
        if prompt.session is None or not prompt.messages:
            continue
        heads = _heads(prompt.messages)
        body = prompt.messages[heads:]
        keys = [digests.get(id(m)) or digests.setdefault(id(m), _digest(m)) for m in body]
        threads = sessions[prompt.session]
        before, kind, whole = _goes_on(threads, body, keys)
        if before is not None:
            threads.remove(before)
        whole_keys = [digests.get(id(m)) or digests.setdefault(id(m), _digest(m)) for m in whole]
        threads.append(_Sent(keys, whole, whole_keys, kind))
        del threads[:-_THREADS]
        if kind is None:
            continue
        restored[i] = whole
        kinds[kind].append(i)
        if kind not in places:
            at = next(
                (k for k, (a, b) in enumerate(zip(keys, whole_keys, strict=False)) if a != b), len(keys) - 1
            )
            example = _said(body[at : at + 1]), _said(whole[at : at + 1])
            places[kind] = heads + at, str(body[at].get("role", "unknown")), example

    def fix(i: int, prompt: Prompt) -> Prompt:
        messages = prompt.messages or []
        return prompt._replace(messages=[*messages[: _heads(messages)], *restored[i]])

    return [
        Candidate(
            kind,
            f"message {places[kind][0]} ({places[kind][1]})",
            places[kind][0],
            0,
            members,
            fix,
            places[kind][2],
        )
        for kind, members in kinds.items()
        if members
    ]


def _heads(messages: Sequence[Message]) -> int:
    """System messages that a request begins with."""
    return next(
        (k for k, m in enumerate(messages) if m.get("role") not in ("system", "developer")), len(messages)
    )


def _said(messages: Sequence[Message]) -> str:
    return _around(text_of(messages[0]) or _dumps(messages[0]), 0) if messages else ""


def _goes_on(
    threads: Sequence[_Sent], body: list[Message], keys: list[str]
) -> tuple[_Sent | None, str | None, list[Message]]:
    """(the conversation of a session that a request goes on with, what became of its history, the request with all of it)"""
    for before in reversed(threads):
        if keys[: len(before.keys)] == before.keys:  # it grew, as histories do
            return before, before.kind, [*before.whole, *body[len(before.keys) :]]
    for before in reversed(threads):
        kind, whole = _compared(before.whole, before.whole_keys, body, keys)
        if kind is not None:
            return before, kind, whole
    return None, None, body


def _compared(
    old: list[Message], old_keys: list[str], body: list[Message], keys: list[str]
) -> tuple[str | None, list[Message]]:
    """(what became of the history, the request with all of it), where a request goes on with an earlier one of its session."""
    same = 0
    while same < min(len(keys), len(old_keys)) and keys[same] == old_keys[same]:
        same += 1
    if same == len(old_keys):  # as it was restored before
        return None, body
    # the oldest messages are gone, or one that sums them up stands for them
    for lead, kind in ((0, "history_truncated"), (1, "history_rewritten")):
        kept = _overlap(old_keys, keys[lead:], lead + 1)
        if kept and (kept > 1 or len(_dumps(old[-1])) >= 2 * _TOLD):
            return kind, [*old, *body[lead + kept :]]
    if same == 0 and len(body) > 1 and body[0].get("role") == "user" and body[1].get("role") == "assistant":
        summary = text_of(body[0]) or ""
        told = [(text_of(m) or "")[:_QUOTED] for m in old]
        if sum(len(t) == _QUOTED and t in summary for t in told) > 1:
            return "history_rewritten", [*old, *body[1:]]
    if len(body) < len(old):
        return None, body
    differs = [k for k in range(len(old)) if keys[k] != old_keys[k]]
    if any(m[k].get("role") == "user" for k in differs for m in (old, body)) or any(
        old[k].get("role") != body[k].get("role") for k in differs
    ):
        return None, body  # another question is another conversation
    again = any(keys[k] == old_keys[k] and len(_dumps(old[k])) >= 2 * _TOLD for k in range(same, len(old)))
    if again or all(_says_the_same(old[k], body[k]) for k in differs):
        return "history_rewritten", [*old, *body[len(old) :]]
    return None, body  # answered anew: a branch of the conversation


def _overlap(old: Sequence[str], new: Sequence[str], least: int) -> int:
    """The most entries with which `old` ends and `new` begins, at least `least` entries of old being left out.

    >>> _overlap("abcb", "bcbd", 1), _overlap("abab", "cd", 1)
    (3, 0)
    """
    if not new:
        return 0
    # the prefix function of new, run over old (Knuth, Morris and Pratt): linear in both
    fail = [0] * len(new)
    k = 0
    for i in range(1, len(new)):
        while k and new[i] != new[k]:
            k = fail[k - 1]
        k += new[i] == new[k]
        fail[i] = k
    k = 0
    for key in old[least:]:
        while k and (k == len(new) or key != new[k]):
            k = fail[k - 1]
        k += key == new[k]
    return k


def _says_the_same(a: Message, b: Message) -> bool:
    """Whether two messages are one, written in two ways: JSON written anew, thoughts left out."""
    if [_read_call(c) for c in _calls(a)] != [_read_call(c) for c in _calls(b)]:
        return False
    one, other = sorted((_SPACE.sub(" ", text_of(m) or "").strip() for m in (a, b)), key=len)
    if one == other:
        return True
    if one.startswith(("{", "[")) and other.startswith(("{", "[")):
        return bool(_loaded(one) == _loaded(other))
    return len(one) > 1 and (other.endswith(one) or (len(one) >= _TOLD and other.startswith(one)))


def _calls(message: Message) -> list[Any]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _read_call(call: Any) -> Any:
    """A tool call with its arguments read: templates show them, not the text that they came in."""
    of = call.get("function") if isinstance(call, dict) else None
    return (
        {**call, "function": {**of, "arguments": _loaded(of.get("arguments"))}}
        if isinstance(of, dict)
        else call
    )


def _loaded(text: Any) -> Any:
    """The value of a JSON text; what is none, as it is."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return text


def _digest(message: Message) -> str:
    """Equal for messages that templates show alike."""
    if calls := _calls(message):
        message = {**message, "tool_calls": [_read_call(c) for c in calls]}
    return hashlib.blake2b(
        _dumps(message, sort=True).encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()
