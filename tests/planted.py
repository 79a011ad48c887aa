"""Logs of real conversations with one breaker planted into them, and what undoing it is worth, known exactly.

    plant("uuid", rate=0.5, place="front") -> Planted(records, remedied, ...)

`records` is the log as an application with that fault would have written it, `remedied` the same requests after the fault was
mended in the way that docs and remedies ask for. Nothing of traceprof takes part in either.

**The truth.** Both logs are tokenized alike. A token of a prompt *hits* when the prompt has been, up to and with that token, the
beginning of an earlier one of the same root (`hits`, a trie of dicts). What does not hit has to be computed.

    truth = computed tokens of records - computed tokens of remedied

That is the prefill that the engine is spared, and the difference in hits where the remedy leaves prompts as long as they were.
Where it does not, the difference in hits is wrong by as much: a history that was cut and is whole again hits with tokens that
nobody had asked for, and tools with sorted keys may take fewer tokens than they did.

What was planted is corrected for by standing in both logs: values and documents are in `remedied`, too, on a line of their own at
the end of the last message, where they cost what they cost. Where the values of a share of the traffic vary, those of the rest move
with them, since the code that writes them is the same.

A seam is worth those ids of the text sent before that the engine had and could not use: `lost_at_seams`.

Planting is deterministic: the same arguments give the same bytes.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import json
import random
import uuid
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parent / "data" / "conversations"
START = dt.datetime(2026, 3, 2, 8, 0, tzinfo=dt.UTC)

NAMES = [
    "Mia Li", "Raj Sanchez", "Olivia Gonzalez", "Amelia Davis", "Sophia Silva", "Chen Jackson", "Daiki Muller",
    "Noah Muller", "Aarav Garcia", "Emma Kim", "Ivan Rossi", "Harper Khan", "Mohamed Silva", "Lucas Brown", "Yara Haddad",
    "Isabella Lopez", "Ethan Martin", "Juan Patel", "Anya Ahmed", "Sofia Kovacs",
]  # fmt: skip


class Request(NamedTuple):
    """One request of a log, before it is written down."""

    session: str
    turn: int
    at: dt.datetime
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    prompt: str | None = None
    answer: Any = None  # what the assistant said next: a message, or a text
    model: str = "qwen3-8b"
    salt: str | None = None


class Planted(NamedTuple):
    """A log with a breaker, and what is known of it."""

    kind: str
    requests: list[Request]  # with the breaker
    remedied: list[Request]  # the same requests without it
    breaking: set[int]  # positions of the requests that part from earlier ones by it
    carrying: set[
        int
    ]  # of all that have such a place in their prompt, whether or not it is what others have there
    messages: set[int] | None  # in which message it stands; None: in the tools, or in no prompt at all
    span: tuple[int, int] | None = None  # character offsets in that message between which it stands

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log itself, for `ingest`."""
        return [record(i, r) for i, r in enumerate(self.requests)]


def record(number: int, request: Request) -> dict[str, Any]:
    """A request as a line of an OpenAI-style log with bodies."""
    body: dict[str, Any] = {"model": request.model}
    if request.messages is not None:
        body["messages"] = request.messages
        if request.tools is not None:
            body["tools"] = request.tools
        answer = request.answer or {"role": "assistant", "content": "Done."}
        response = {
            "model": request.model,
            "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
        }
    else:
        body["prompt"] = request.prompt
        response = {
            "model": request.model,
            "object": "text_completion",
            "choices": [{"index": 0, "text": request.answer or "", "finish_reason": "stop"}],
        }
    if request.salt is not None:
        body["cache_salt"] = request.salt
    return {
        "timestamp": request.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": f"r{number:05d}",
        "session_id": request.session,
        "latency_ms": 900,
        "status_code": 200,
        "request": body,
        "response": response,
    }


# -- clean logs ------------------------------------------------------------------------------------------------


@functools.cache
def _data(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name).read_text("utf-8"))
    return found


def _at(session: int, turn: int) -> dt.datetime:
    """Sessions come in pairs that overlap, a pair every 26 hours."""
    return START + dt.timedelta(hours=26 * (session // 2), seconds=40 * turn + 13 * (session % 2))


def _in_order(requests: list[Request]) -> list[Request]:
    return sorted(requests, key=lambda r: r.at)


def _chats(sessions: list[list[dict[str, Any]]], name: str) -> list[Request]:
    """A request for every answer of the assistant; each holds what came before."""
    out = []
    for s, messages in enumerate(sessions):
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        for turn, i in enumerate(answers):
            sent = [{k: v for k, v in m.items() if k != "thought"} for m in messages[:i]]
            answer = {k: v for k, v in messages[i].items() if k != "thought"}
            out.append(Request(f"{name}-{s}", turn, _at(s, turn), sent, answer=answer))
    return _in_order(out)


def airline(line: str = "", place: str = "front") -> list[Request]:
    """tau-bench's airline agent: 40 sessions under one system prompt, with `line` put into it."""
    data = _data("tau-airline.json")
    system = with_line(data["system"], line, place)
    return _chats([[{"role": "system", "content": system}, *s] for s in data["sessions"]], "air")


def with_line(system: str, line: str, place: str) -> str:
    """`line` as a paragraph of its own: at the front, or in the middle."""
    if not line:
        return system
    at = _place(system, place)
    return f"{system[:at]}{line}\n\n{system[at:]}"


def _place(system: str, place: str) -> int:
    return 0 if place == "front" else system.index("\n\n", len(system) // 2) + 2


def trading(line: str = "") -> list[Request]:
    """BFCL's trading bot: 80 single questions, all with the same 20 tools; `line` begins a system prompt."""
    data = _data("bfcl-trading.json")
    first = [{"role": "system", "content": line + "You trade on behalf of the customer. Use the tools."}]
    return [
        Request(
            f"bot-{i}", 0, _at(i, 0), [*first, {"role": "user", "content": q}], copy.deepcopy(data["tools"])
        )
        for i, q in enumerate(data["questions"])
    ]


def helpdesk() -> list[Request]:
    """80 questions of people behind one long instruction: a single turn each."""
    system = _data("tau-airline.json")["system"]
    return [
        Request(
            f"q-{i}", 0, _at(i, 0), [{"role": "system", "content": system}, {"role": "user", "content": q}]
        )
        for i, q in enumerate(_data("arena-hard.json")["questions"])
    ]


def agents() -> list[Request]:
    """SWE-agent on capture-the-flag tasks: nine sessions whose answers are a thought and a command."""
    return _chats(_data("swe-agent.json")["sessions"], "swe")


def branches() -> list[Request]:
    """OpenAssistant's conversation trees, a session each: answers are asked for again, and talked on from all of them."""
    out = []
    for t, tree in enumerate(_data("oasst-trees.json")["trees"]):
        asked: list[list[dict[str, Any]]] = []
        waiting = [(tree, [])]
        while waiting:
            node, before = waiting.pop(0)
            said = [
                *before,
                {"role": "user" if node["role"] == "prompter" else "assistant", "content": node["text"]},
            ]
            if node["role"] == "prompter":
                asked.append(said)
            waiting += [(reply, said) for reply in node["replies"]]
        out += [Request(f"tree-{t}", turn, _at(t, turn), messages) for turn, messages in enumerate(asked)]
    return _in_order(out)


def titled() -> list[Request]:
    """The airline's sessions, in each of which another application asks for a title after every turn."""
    out = []
    for r in airline()[:120]:
        question = (r.messages or [])[1]
        ask = [{"role": "system", "content": "Give the conversation a title of five words."}, question]
        out += [r, r._replace(messages=ask, at=r.at + dt.timedelta(seconds=1))]
    return _in_order(out)


def typing(cut: int = 37) -> list[Request]:
    """A completion for every line of thought while a text is being written, always up to the end of a word."""
    return _typed(lambda text, i: _word_end(text, i), cut)


def _typed(where: Any, cut: int) -> list[Request]:
    out = []
    for s, text in enumerate(_data("arena-hard.json")["documents"]):
        text = text[: 12 * cut]
        for turn, i in enumerate(range(cut, len(text) - cut, cut)):
            out.append(Request(f"type-{s}", turn, _at(s, turn), prompt=text[: where(text, i)], answer=""))
    return _in_order(out)


def _word_end(text: str, i: int) -> int:
    """The first place from i on where a word ends: a letter before it, a space behind it."""
    return next((k for k in range(i, len(text)) if text[k - 1].isalpha() and text[k] == " "), len(text))


CLEAN = {
    "airline": airline,
    "trading": trading,
    "helpdesk": helpdesk,
    "agents": agents,
    "branches": branches,
    "titled": titled,
    "typing": typing,
}


# -- planting --------------------------------------------------------------------------------------------------


def _share(items: list[Any], rate: float, rng: random.Random) -> set[Any]:
    """So many of the items as the rate says, at least one."""
    return set(rng.sample(items, max(1, round(rate * len(items)))))


def _sessions(requests: list[Request], rate: float, rng: random.Random) -> set[str]:
    return _share(list(dict.fromkeys(r.session for r in requests)), rate, rng)


def _with_system(request: Request, system: str) -> Request:
    messages = request.messages or []
    return request._replace(messages=[{**messages[0], "content": system}, *messages[1:]])


def _system(request: Request) -> str:
    text = (request.messages or [])[0]["content"]
    assert isinstance(text, str)
    return text


def _hex(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789abcdef") for _ in range(n))


VOLATILE = {  # kind -> (the line, the value that never changes, a fresh value, whether it is fresh in every request)
    "timestamp": (
        "The current time is {}.",
        "2026-03-01 09:00:00 UTC",
        lambda r, rng: f"{r.at:%Y-%m-%d %H:%M:%S} UTC",
        True,
    ),
    "date": (
        "Today is {}.",
        "Sunday, March 1, 2026",
        lambda r, rng: f"{r.at:%A, %B} {r.at.day}, {r.at.year}",
        False,
    ),
    "uuid": (
        "Conversation: {}",
        "5f0c954e-0f86-4f3f-9df4-0b8d39f3a1c7",
        lambda r, rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        True,
    ),
    "request_id": ("Request ID: {}", "req_7d1fe02b9c4a4e55", lambda r, rng: f"req_{_hex(rng, 16)}", True),
    "user_name": ("You are talking to {}.", "Ada Lovelace", lambda r, rng: rng.choice(NAMES), False),
}


def volatile(
    kind: str,
    rate: float,
    rng: random.Random,
    place: str,
    mixed: bool = False,
    clean: list[Request] | None = None,
) -> Planted:
    """A line of the system prompt holds a value: always the same one, but a fresh one in a share of the traffic.

    Times, ids: a share of the requests. Dates, names: a share of the sessions, the same value all through a session.
    `mixed`: the other share of the traffic comes from a client that has no such line at all.
    """
    line, constant, fresh, every = VOLATILE[kind]
    head, tail = line.split("{}")
    clean = airline() if clean is None else clean
    start = _place(_system(clean[0]), place)
    if every:
        chosen = _share(list(range(len(clean))), rate, rng)
    else:
        names = _sessions(clean, rate, rng)
        chosen = {i for i, r in enumerate(clean) if r.session in names}
    values: dict[str, str] = {}
    out, mended = [], []
    for i, r in enumerate(clean):
        value = constant
        if i in chosen:
            value = fresh(r, rng) if every else values.setdefault(r.session, fresh(r, rng))
        elif mixed:
            out.append(r)
            mended.append(r)
            continue
        said = line.format(value)
        out.append(_with_system(r, with_line(_system(r), said, place)))
        without = r if mixed else _with_system(r, with_line(_system(r), f"{head}{tail}", place))
        mended.append(_at_the_end(without, said if mixed else value))
    everyone = set(range(len(clean)))
    longest = len(head) + 40 + len(tail) + 2
    return Planted(kind, out, mended, chosen, chosen if mixed else everyone, {0}, (start, start + longest))


def _at_the_end(request: Request, text: str) -> Request:
    """`text` on a line of its own at the end of the last message."""
    messages = request.messages or []
    return request._replace(
        messages=[*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n{text}"}]
    )


def retrieved_documents(rate: float, rng: random.Random) -> Planted:
    """In a share of the requests one or two documents stand before the instructions that all share."""
    documents = _data("arena-hard.json")["documents"]
    clean = helpdesk()
    chosen = _share(list(range(len(clean))), rate, rng)
    out, mended = list(clean), list(clean)
    for i in sorted(chosen):
        found = "\n\n".join(rng.sample(documents, rng.choice((1, 2))))
        out[i] = _with_system(clean[i], f"{found}\n\n{_system(clean[i])}")
        mended[i] = _at_the_end(clean[i], found)
    return Planted("retrieved_documents", out, mended, chosen, chosen, {0}, (0, 2500))


def tool_order(rate: float, rng: random.Random, clean: list[Request] | None = None) -> Planted:
    """In a share of the requests the tools come in an order of their own, as out of a set or a map."""
    clean = trading() if clean is None else clean
    chosen = _share(list(range(len(clean))), rate, rng)
    out = list(clean)
    for i in sorted(chosen):
        tools = list(clean[i].tools or [])
        rng.shuffle(tools)
        out[i] = clean[i]._replace(tools=tools)
    return Planted("tool_order", out, clean, chosen, set(range(len(clean))), None)


def _keys_shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: _keys_shuffled(value[k], rng) for k in keys}
    return [_keys_shuffled(v, rng) for v in value] if isinstance(value, list) else value


def json_key_order(rate: float, rng: random.Random, place: str = "tools") -> Planted:
    """In a share of the requests the keys of JSON objects come in an order of their own: in the tools, or in a system prompt
    that begins with settings as JSON.
    """
    settings = {
        "region": "us-east-1",
        "tier": "gold",
        "currency": "USD",
        "channels": ["web", "phone"],
        "locale": "en-US",
    }
    if place == "tools":
        clean = trading()
    else:
        clean = airline("Settings: " + json.dumps(settings), "front")
    chosen = _share(list(range(len(clean))), rate, rng)
    out = list(clean)
    for i in sorted(chosen):
        if place == "tools":
            out[i] = clean[i]._replace(tools=_keys_shuffled(clean[i].tools, rng))
        else:
            text = "Settings: " + json.dumps(_keys_shuffled(settings, rng))
            out[i] = _with_system(
                clean[i], _system(clean[i]).replace("Settings: " + json.dumps(settings), text)
            )
    differs = {i for i in chosen if json.dumps(record(i, out[i])) != json.dumps(record(i, clean[i]))}
    where = (None, None) if place == "tools" else ({0}, (0, 10 + len(json.dumps(settings))))
    return Planted("json_key_order", out, clean, differs, set(range(len(clean))), *where)


def whitespace(rate: float, rng: random.Random, clean: list[Request] | None = None) -> Planted:
    """In a share of the requests empty lines and spaces at line ends come and go, as when templates are edited by hand."""
    clean = airline() if clean is None else clean
    chosen = _share(list(range(len(clean))), rate, rng)
    out = list(clean)
    for i in sorted(chosen):
        paragraphs = _system(clean[i]).split("\n\n")
        gaps = ["\n\n"] * (len(paragraphs) - 1)
        for at in [*rng.sample(range(1, len(gaps)), 6), 0]:  # always after the first paragraph, too
            gaps[at] = rng.choice(("\n\n\n", "\n \n", " \n\n", "\n\n "))
        text = paragraphs[0] + "".join(gap + p for gap, p in zip(gaps, paragraphs[1:], strict=True))
        out[i] = _with_system(clean[i], text)
    start = _system(clean[0]).index("\n\n")
    return Planted("whitespace", out, clean, chosen, set(range(len(clean))), {0}, (start, start + 4))


EDITS = [  # of the airline's policy, from its beginning on
    ("you can help users book, modify, or cancel", "you can help customers book, change, or cancel"),
    ("You should not provide any information", "Do not provide any information"),
    ("You should only make one tool call at a time", "Make only one tool call at a time"),
    ("You should deny user requests that are against", "Deny requests that are against"),
    ("You should transfer the user to a human agent", "Transfer the user to a human agent"),
]


def template_drift(
    rate: float, rng: random.Random, versions: int = 2, clean: list[Request] | None = None
) -> Planted:
    """A share of the sessions gets other versions of the system prompt, which differ from the first in a few words."""
    clean = airline() if clean is None else clean
    names = sorted(_sessions(clean, rate, rng))
    number = {name: k % (versions - 1) for k, name in enumerate(names)}
    out = list(clean)
    for i, r in enumerate(clean):
        if r.session not in number:
            continue
        text = _system(r).replace(*EDITS[0])  # all of them part there
        for bit, edit in enumerate(EDITS[1:]):
            if number[r.session] >> bit & 1:
                text = text.replace(*edit)
        out[i] = _with_system(r, text)
    start = _system(clean[0]).index(EDITS[0][0])
    breaking = {i for i, r in enumerate(clean) if r.session in number and r.turn == 0}
    everyone = set(range(len(clean)))
    end = start + len(EDITS[0][1])
    if rate == 1:  # without the first version, the others part where the next edit is
        end = _system(clean[0]).index(EDITS[-1][0])
    return Planted("template_drift", out, clean, breaking, everyone, {0}, (start, end))


def history_truncated(
    rate: float, rng: random.Random, window: int = 4, clean: list[Request] | None = None
) -> Planted:
    """In a share of the sessions the client sends the system prompt and only the last few messages."""
    clean = airline() if clean is None else clean
    names = _sessions(clean, rate, rng)
    out, touched = list(clean), set()
    for i, r in enumerate(clean):
        messages = r.messages or []
        if r.session not in names or len(messages) <= 1 + window:
            continue
        kept = messages[-window:]
        while kept[0]["role"] == "tool":  # a result without its call would be refused
            kept = kept[1:]
        out[i] = r._replace(messages=[messages[0], *kept])
        touched.add(i)
    return Planted("history_truncated", out, clean, touched, touched, {1})


def history_rewritten(rate: float, rng: random.Random, how: str) -> Planted:
    """In a share of the sessions earlier turns are not sent again as they were sent before.

    calls      tool calls and their results, but the latest, are written anew: keys sorted, no blanks
    reasoning  answers but the last lose their thought
    summary    from the fourth request on, all but the last four messages of then are one message that sums them up
    """
    clean = agents() if how == "reasoning" else airline()
    names = _sessions(clean, rate, rng)
    thoughts = {}
    if how == "reasoning":
        for s in _data("swe-agent.json")["sessions"]:
            thoughts |= {m["content"]: m["thought"] for m in s if m.get("thought", "").strip()}
    out, touched, breaking, places = list(clean), set(), set(), set()
    before: dict[str, Request] = {}
    for i, r in enumerate(clean):
        if r.session in names:
            messages = copy.deepcopy(r.messages or [])
            answers = [k for k, m in enumerate(messages) if m["role"] == "assistant"]
            if how == "summary":
                messages = _summed_up(clean, r)
            for k in answers[:-1]:
                if how == "reasoning":
                    text = messages[k]["content"]
                    messages[k]["content"] = text.removeprefix(thoughts.get(text, ""))
            if how == "calls":
                for k, m in enumerate(messages[: answers[-1]] if answers else []):
                    messages[k] = _anew(m)
            out[i] = r._replace(messages=messages)
        now = _rendered(out[i])
        if now != _rendered(r):
            touched.add(i)
        sent = _rendered(before[r.session]) if r.session in before else []
        if now[: len(sent)] != sent:
            breaking.add(i)
            places.add(next(k for k, (a, b) in enumerate(zip(now, sent, strict=False)) if a != b))
        before[r.session] = out[i]
    return Planted("history_rewritten", out, clean, breaking, touched, places)


def _anew(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose JSON was read and written again."""

    def again(text: str) -> str:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))

    if message["role"] == "tool" and message["content"].startswith("{"):
        return {**message, "content": again(message["content"])}
    calls = message.get("tool_calls") or []
    for call in calls:
        call["function"]["arguments"] = again(call["function"]["arguments"])
    return message


def _rendered(request: Request) -> list[str]:
    """Messages as a template shows them: it reads the arguments of calls, so that blanks in them do not count."""
    shown = []
    for m in request.messages or []:
        calls = [
            [c["function"]["name"], json.dumps(json.loads(c["function"]["arguments"]))]
            for c in m.get("tool_calls") or []
        ]
        shown.append(json.dumps([m["role"], m["content"] or "", calls]))
    return shown


def _summed_up(clean: list[Request], request: Request) -> list[dict[str, Any]]:
    messages = request.messages or []
    if request.turn < 3:
        return copy.deepcopy(messages)
    then = next(r for r in clean if r.session == request.session and r.turn == 3)
    end = len(then.messages or []) - 4
    while messages[end]["role"] == "tool":
        end -= 1
    said = [f"- {m['role']}: {(m['content'] or 'called a tool')[:120]}" for m in messages[1:end]]
    summary = {"role": "user", "content": "Summary of the conversation so far:\n" + "\n".join(said)}
    return [messages[0], summary, *copy.deepcopy(messages[end:])]


def tokenization_seam(rate: float, rng: random.Random, cut: int = 37) -> Planted:
    """While a text is being written, a share of the sessions asks in the middle of words.

    The text begins with what was sent before; its ids do not.
    """
    clean = typing(cut)
    names = _sessions(clean, rate, rng)
    torn = _typed(lambda text, i: _inside_word(text, i), cut)
    out = [t if c.session in names else c for c, t in zip(clean, torn, strict=True)]
    torn_at = {i for i, r in enumerate(out) if r.session in names and r.turn > 0}
    return Planted("tokenization_seam", out, out, torn_at, torn_at, None)


def _inside_word(text: str, i: int) -> int:
    """The first place from i on with at least three letters before and three behind."""
    inside = (k for k in range(i, len(text) - 3) if text[k - 3 : k + 3].isalpha())
    return next(inside, len(text))


def model_split(
    rate: float, rng: random.Random, models: int = 2, clean: list[Request] | None = None
) -> Planted:
    """A share of the sessions goes to other models or adapters, whose prompts are the same."""
    clean = airline() if clean is None else clean
    names = sorted(_sessions(clean, rate, rng))
    others = {name: f"qwen3-8b-lora-{k % (models - 1)}" for k, name in enumerate(names)}
    out = [r._replace(model=others.get(r.session, r.model)) for r in clean]
    breaking = {i for i, r in enumerate(clean) if r.session in others and r.turn == 0}
    return Planted("model_split", out, clean, breaking, set(range(len(clean))), None)


def tenant_split(
    rate: float, rng: random.Random, tenants: int = 10, clean: list[Request] | None = None
) -> Planted:
    """A share of the sessions is sent under cache salts, one a tenant."""
    clean = airline() if clean is None else clean
    names = sorted(_sessions(clean, rate, rng))
    salts = {name: f"tenant-{k % tenants}" for k, name in enumerate(names)}
    out = [r._replace(salt=salts.get(r.session)) for r in clean]
    breaking = {i for i, r in enumerate(clean) if r.session in salts and r.turn == 0}
    return Planted("tenant_split", out, clean, breaking, set(range(len(clean))), None)


def plant(
    kind: str, rate: float = 1.0, seed: int = 7, clean: list[Request] | None = None, **options: Any
) -> Planted:
    """A log with one kind of breaker at a rate, in `clean` or a log of its own; the kinds' functions say what the options mean."""
    rng = random.Random(f"{kind} {rate} {seed} {sorted(options.items())}")
    if clean is not None:
        options["clean"] = clean
    if kind in VOLATILE:
        return volatile(kind, rate, rng, **options)
    made: Planted = globals()[kind](rate, rng, **options)
    return made


class Pair(NamedTuple):
    """Two breakers in one log, each mended alone, and both."""

    first: Planted
    second: Planted
    requests: list[Request]  # with both
    first_mended: list[Request]  # only the second is left
    second_mended: list[Request]
    mended: list[Request]


def plant_both(
    first: tuple[str, float, dict[str, Any]], second: tuple[str, float, dict[str, Any]], clean: list[Request]
) -> Pair:
    """(kind, rate, options) twice: the second is planted behind the first, with the same choices wherever it stands."""
    one = plant(first[0], first[1], clean=clean, **first[2])
    both = plant(second[0], second[1], clean=one.requests, **second[2])
    alone = plant(second[0], second[1], clean=one.remedied, **second[2])
    return Pair(one, both, both.requests, alone.requests, both.remedied, alone.remedied)


# -- the truth -------------------------------------------------------------------------------------------------


def hits(prompts: list[tuple[Any, list[int]]]) -> list[int]:
    """Tokens of each (root, ids) that some earlier prompt of its root began with.

    >>> hits([(0, [1, 2, 3]), (0, [1, 2, 9]), (1, [1, 2])])
    [0, 2, 0]
    """
    roots: dict[Any, dict[int, Any]] = {}
    found = []
    for root, ids in prompts:
        node, n, known = roots.setdefault(root, {}), 0, True
        for one in ids:
            known = known and one in node
            n += known
            node = node.setdefault(one, {})
        found.append(n)
    return found


def truth(before: list[tuple[Any, list[int]]], after: list[tuple[Any, list[int]]]) -> int:
    """Prefill tokens that a remedy spares, of the (root, ids) of the planted and the remedied log: see the module."""

    def computed(prompts: list[tuple[Any, list[int]]]) -> int:
        return sum(len(ids) for _, ids in prompts) - sum(hits(prompts))

    return computed(before) - computed(after)


def lost_at_seams(requests: list[Request], ids: list[list[int]]) -> tuple[int, int]:
    """(requests, ids lost) where a text goes on from the last one of its session, but its ids part before that one's end.

    >>> typed = [Request("s", 0, START, prompt="in"), Request("s", 1, START, prompt="internal")]
    >>> lost_at_seams(typed, [[1, 2], [1, 3]])
    (1, 1)
    """
    last: dict[str, list[int]] = {}
    torn = lost = 0
    for r, own in zip(requests, ids, strict=True):
        sent = last.get(r.session, [])
        same = next((k for k, (a, b) in enumerate(zip(sent, own, strict=False)) if a != b), len(sent))
        torn += same < len(sent)
        lost += len(sent) - same
        last[r.session] = own
    return torn, lost
