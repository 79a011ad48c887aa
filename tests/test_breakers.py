"""What breaks sharing: each kind's detection and fix on plain prompts, and what a remedy is measured to save."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import naive
from tests.conftest import jsonl
from traceprof.ingest import Options, ingest
from traceprof.prefix import breakers
from traceprof.prefix.breakers import Prompt, find
from traceprof.privacy import LEVELS, protect
from traceprof.remedies import find_breakers, previews
from traceprof.tokens import chunks, tokenize

RULES = " ".join(f"Rule {i}: be kind to every customer who asks about topic {i}." for i in range(12))
DOCS = [
    f"Document {w}. " + " ".join(f"{w} is told in line {i} of it." for i in range(9)) for w in ("fox", "owl", "elk", "ant", "bee")
]  # fmt: skip
ASKED = ["How do I pay?", "Where is my parcel?", "May I return it?", "Who are you?", "Is it blue?"]

VALUES = {
    "timestamp": [
        ("2026-03-02T08:01:02Z", "2026-03-02T08:04:59Z"),
        ("2026-03-02 08:01:02.123456 UTC", "2026-03-03 09:01:02.100000 UTC"),
        ("Mon, 2 Mar 2026 08:01:02 GMT", "Tue, 3 Mar 2026 08:01:02 GMT"),
        ("March 2, 2026 at 9:05 AM", "March 2, 2026 at 9:07 PM"),
        ("1772438462", "1772438999"),
        ("1772438462123", "1772438999456"),
        ("08:01", "17:45"),
    ],
    "date": [
        ("2026-03-02", "2026-03-04"),
        ("Monday, March 2, 2026", "Wednesday, March 4, 2026"),
        ("2 March 2026", "14 May 2026"),
        ("02/03/2026", "04/03/2026"),
        ("2.3.2026", "14.12.2026"),
    ],
    "uuid": [("5f0c954e-0f86-4f3f-9df4-0b8d39f3a1c7", "0B8D39F3-9DF4-4F3F-0F86-5F0C954EA1C7")],
    "request_id": [
        ("req_7d1fe02b9c4a4e55", "req_0a1fe02b9c4a4eff"),
        ("0af7651916cd43dd8448eb211c80319c", "bbf7651916cd43dd8448eb211c80319d"),
        ("chatcmpl-9Xk2LmQ8", "chatcmpl-1Yk3AbC4"),
        ("40917723", "40917888"),
    ],
}
PAIRS = [(kind, *pair) for kind, pairs in VALUES.items() for pair in pairs]


def chat(system, *turns, session=None, tools=None):
    """A prompt of a system message and turns of user and assistant."""
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [
        t if isinstance(t, dict) else {"role": role, "content": t}
        for role, t in zip(roles, turns, strict=False)
    ]
    return Prompt(messages, tools, None, session)


def words(prompt):
    """All words of a prompt, with how often they stand in it."""
    texts = (
        [prompt.text or ""]
        if prompt.messages is None
        else [breakers.text_of(m) or "" for m in prompt.messages]
    )
    return Counter(re.findall(r"\w+", " ".join(texts)))


def only(prompts):
    """The one candidate that there is."""
    (found,) = find(prompts)
    return found


def fixed(prompts, candidate):
    """All prompts after the fix."""
    return [candidate.fix(i, p) if i in candidate.prompts else p for i, p in enumerate(prompts)]


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_a_value_before_shared_text_moves_to_the_end_of_the_last_message(kind, one, other):
    """Kind, message and character are told; all but the value is the same afterwards, and nothing is lost."""
    prompts = [
        chat(f"You help. Now: {v}. {RULES}", q) for v, q in zip((one, other, one), ASKED, strict=False)
    ]
    found = only(prompts)
    assert (found.kind, found.message, found.offset) == (kind, 0, 15)
    assert found.where == "system message, character 15"
    assert found.prompts == [0, 1, 2]
    after = fixed(prompts, found)
    assert {p.messages[0]["content"] for p in after} == {f"You help. Now: . {RULES}"}
    assert [p.messages[1]["content"] for p in after] == [
        f"{q}\n{v}" for v, q in zip((one, other, one), ASKED, strict=False)
    ]
    assert one in found.example[0]
    assert one not in found.example[1]


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_a_value_that_never_changes_stays(kind, one, other):
    """Of two values of a kind only the one that differs moves; where none does, there is nothing to find."""
    assert find([chat(f"Since {one}: {RULES}", q) for q in ASKED]) == []
    found = only([chat(f"Since {one}, now {v}: {RULES}", ASKED[0]) for v in (one, other)])
    assert found.offset == len(f"Since {one}, now ")
    assert (
        found.fix(1, chat(f"Since {one}, now {other}: {RULES}", "x")).messages[1]["content"] == f"x\n{other}"
    )


def test_values_in_prompts_that_are_one_text_move_to_its_end():
    """A completion has no messages."""
    prompts = [
        Prompt(None, None, f"{day} {RULES} Q: {q}") for day in ("2026-03-02", "2026-03-03") for q in ASKED[:1]
    ]
    found = only(prompts)
    assert found.where == "prompt, character 0"
    assert [p.text for p in fixed(prompts, found)] == [
        f" {RULES} Q: How do I pay?\n2026-03-0{d}" for d in (2, 3)
    ]


def test_a_line_that_others_do_not_have_moves_whole():
    """One client writes the time into the prompt, the other does not: what is left must be the same."""
    line = "Current time: {}.\n\n"
    texts = [
        line.format("2026-03-02 08:01:02") + RULES,
        line.format("2026-03-02 09:30:00") + RULES,
        RULES,
        RULES,
    ]
    prompts = [chat(t, q) for t, q in zip(texts, ASKED, strict=False)]
    found = only(prompts)
    assert found.prompts == [0, 1]
    assert {p.messages[0]["content"] for p in fixed(prompts, found)} == {RULES}
    assert (
        fixed(prompts, found)[0].messages[1]["content"] == "How do I pay?\nCurrent time: 2026-03-02 08:01:02."
    )


def test_a_date_at_the_end_of_a_long_prompt_is_found():
    """Both ends of long texts are looked at; tools or a history may stand behind."""
    long = RULES * 100
    found = only([chat(f"{long} Today is {day}.", "Hi") for day in ("2026-03-02", "2026-03-03")])
    assert (found.kind, found.offset) == ("date", len(long) + 10)


def test_one_request_alone_may_have_the_line():
    """It is no version of the template, and its value is not there twice."""
    texts = [f"Trace: req_7d1fe02b9c4a\n{RULES}", RULES, RULES]
    found = only([chat(t, q) for t, q in zip(texts, ASKED, strict=False)])
    assert (found.kind, found.prompts, found.offset) == ("request_id", [0], 7)


@pytest.mark.parametrize("days", [("\0", "2026-03-02"), ("2026-03-02", "\0")])
def test_a_mask_in_a_text_is_no_value(days):
    """What stands for a value inside may stand in a log, too."""
    assert find([chat(f"Today is {day}. {RULES[:99]}", "Hi") for day in days]) == []


def test_values_of_two_kinds_in_one_place_are_two_findings():
    """Each fix moves its own kind only."""
    prompts = [
        chat(f"[{a} {b}] {RULES}", "Hi")
        for a, b in zip(("req_aaaa1111", "req_bbbb2222"), ("08:01:02", "08:01:03"), strict=True)
    ]
    by_kind = {c.kind: c for c in find(prompts)}
    assert set(by_kind) == {"request_id", "timestamp"}
    assert by_kind["timestamp"].fix(0, prompts[0]).messages[1]["content"] == "Hi\n08:01:02"
    assert by_kind["request_id"].fix(0, prompts[0]).messages[1]["content"] == "Hi\nreq_aaaa1111"


def test_content_of_parts_is_text_too():
    """A system message of one text part, and a user message whose text stands beside an image."""
    image = {"type": "image", "sha": "ab", "bytes": 9}
    prompts = [
        Prompt(
            [
                {"role": "developer", "content": [{"type": "text", "text": f"{t} {RULES}"}]},
                {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
            ]
        )
        for t in ("08:01:02", "09:01:02")
    ]
    found = only(prompts)
    assert found.where == "developer message, character 0"
    assert fixed(prompts, found)[0].messages == [
        {"role": "developer", "content": [{"type": "text", "text": f" {RULES}"}]},
        {"role": "user", "content": [{"type": "text", "text": "What is it?\n08:01:02"}, image]},
    ]


def test_what_has_no_place_to_go_to_becomes_a_message():
    """The last message is an image: the value is kept all the same."""
    last = {"role": "user", "content": [{"type": "image", "sha": "ab", "bytes": 9}]}
    prompts = [chat(f"{t} {RULES}", last) for t in ("08:01:02", "09:01:02")]
    assert fixed(prompts, only(prompts))[1].messages[1:] == [last, {"role": "user", "content": "09:01:02"}]


# -- spans and versions ----------------------------------------------------------------------------------------


def test_names_before_shared_text_move():
    """A short span of capitalized words that differs, as whole words, though letters of them are the same."""
    names = ("Maria Lopez", "Marc Sanchez", "Maria Lopez", "Max Juarez") * 4
    prompts = [chat(f"You talk to {n}. {RULES}", "Hi") for n in names]
    found = only(prompts)
    assert (found.kind, found.message, found.offset) == ("user_name", 0, 12)
    after = fixed(prompts, found)
    assert {p.messages[0]["content"] for p in after} == {f"You talk to . {RULES}"}
    assert [p.messages[1]["content"] for p in after][1] == "Hi\nMarc Sanchez"


@pytest.mark.parametrize("message", [0, 1])
def test_documents_before_shared_instructions_move_behind_them(message):
    """In the system message or in the user's; requests without a document are left as they are."""
    texts = [*(f"{d}\n\n{RULES}" for d in DOCS), RULES]
    prompts = [chat(t, "Hi") if message == 0 else chat("You help.", t) for t in texts]
    found = only(prompts)
    assert (found.kind, found.message, found.offset) == ("retrieved_documents", message, 0)
    assert found.prompts == [0, 1, 2, 3, 4]
    for before, after in zip(prompts, fixed(prompts, found), strict=True):
        assert after.messages[message]["content"].startswith(RULES)
        assert words(after) == words(before)


@pytest.mark.parametrize("texts", [[f"{RULES}\n\n{d}" for d in DOCS], [f"{d}\n\n{RULES[:90]}" for d in DOCS]])
def test_documents_behind_the_instructions_break_nothing(texts):
    """Other questions behind one prompt, and little that is the same behind a document."""
    assert find([chat(t, "Hi") for t in texts]) == []


@pytest.mark.parametrize("places", [1, 2])
def test_versions_of_a_template_become_the_most_frequent_one(places):
    """Two versions, each sent by many, that differ in a word, or in a few."""
    new = RULES.replace("be kind", "be polite", places)
    prompts = [chat(RULES if i % 3 else new, f"{q} {i}") for i, q in enumerate(ASKED * 3)]
    found = only(prompts)
    assert (found.kind, found.offset, found.prompts) == (
        "template_drift",
        RULES.index("kind"),
        list(range(15)),
    )
    assert {p.messages[0]["content"] for p in fixed(prompts, found)} == {RULES}


def test_white_space_becomes_that_of_the_most_frequent_text():
    """Words stay, also a date that differs beside it."""
    texts = [f"Today is 2026-03-0{i}.\n\n{RULES}" for i in (2, 2, 2, 3)]
    texts[3] = texts[3].replace("\n\n", "\n \n").replace("topic 3", "topic  3")
    by_kind = {c.kind: c for c in find([chat(t, "Hi") for t in texts])}
    assert set(by_kind) == {"whitespace"}
    found = by_kind["whitespace"]
    assert found.fix(3, chat(texts[3], "Hi")).messages[0]["content"] == texts[0].replace("03-02", "03-03")


@given(
    st.text(alphabet="ab \n\t", max_size=30),
    st.lists(st.sampled_from([" ", "\n", "  ", "\t\n"]), max_size=12),
)
def test_respacing_changes_white_space_only(text, gaps):
    """The words are those of the text; the white space is the other's where it has as many words."""
    like = "x".join(gaps)
    got = breakers._respaced(text, like)
    assert got.split() == text.split()
    assert got == text or re.findall(r"\s+", got) == re.findall(r"\s+", like)


def test_json_in_a_text_is_compared_by_its_values():
    """Keys in another order, also further inside."""
    settings = {"tier": "gold", "region": {"name": "us-east", "zone": 1}}
    other = {"region": {"zone": 1, "name": "us-east"}, "tier": "gold"}
    texts = [f"Settings: {json.dumps(s)}\n{RULES}" for s in (settings, settings, other)]
    found = only([chat(t, "Hi") for t in texts])
    assert (found.kind, found.message, found.offset) == ("json_key_order", 0, 12)
    assert found.fix(2, chat(texts[2], "Hi")).messages[0]["content"] == texts[0]
    changed = json.dumps({**settings, "tier": "free"})
    kinds = {
        c.kind for c in find([chat(f"Settings: {s}\n{RULES}", "Hi") for s in (json.dumps(settings), changed)])
    }
    assert "json_key_order" not in kinds


def test_what_the_model_said_is_not_of_the_template():
    """Answers that end alike, as after a question that was asked three times, are nobody's to move."""
    prompts = [
        Prompt([{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": f"{d} {RULES}"}])
        for d in DOCS
    ]
    assert find(prompts) == []


# -- tools -----------------------------------------------------------------------------------------------------


def tool(name, keys=("type", "name", "description")):
    """A function tool with its keys in an order."""
    values = {"type": "function", "name": name, "description": f"Does {name}."}
    return {k: values[k] for k in keys}


def test_tools_in_another_order_come_in_the_most_frequent_one():
    """However their keys are written; a list with another tool is another list."""
    a, b, c = tool("a"), tool("b"), tool("c")
    lists = [[b, a], [a, b], [b, a], [a, b, c], [c, a]]
    prompts = [chat("You help.", "Hi", tools=t) for t in lists]
    found = only(prompts)
    assert (found.kind, found.where, found.message, found.prompts) == ("tool_order", "tools", None, [0, 1, 2])
    assert [p.tools for p in fixed(prompts, found)] == [[b, a], [b, a], [b, a], [a, b, c], [c, a]]
    assert found.example == ("a, b", "b, a")


def test_keys_of_tools_in_another_order_are_written_as_most_often():
    """The values are the same; the order of the tools is another matter."""
    usual, odd = tool("a"), tool("a", ("name", "type", "description"))
    prompts = [chat("You help.", "Hi", tools=[t]) for t in (usual, odd, usual)]
    found = only(prompts)
    assert (found.kind, found.prompts) == ("json_key_order", [0, 1, 2])
    assert {json.dumps(p.tools) for p in fixed(prompts, found)} == {json.dumps([usual])}


def test_order_and_keys_at_once_are_two_findings():
    """Mended one after the other, all lists are the same."""
    a, b, odd = tool("a"), tool("b"), tool("a", ("name", "type", "description"))
    prompts = [chat("You help.", "Hi", tools=t) for t in ([a, b], [a, b], [odd, b], [b, odd])]
    assert {c.kind for c in find(prompts)} == {"tool_order", "json_key_order"}
    after = breakers.mended(prompts, {("tool_order", None), ("json_key_order", None)})
    assert {json.dumps(p.tools) for p in after} == {json.dumps([a, b])}


# -- history ---------------------------------------------------------------------------------------------------


def call(arguments, identity="c1"):
    """An assistant's message that calls a tool."""
    function = {"name": "look", "arguments": arguments}
    return {
        "role": "assistant", "content": None, "tool_calls": [{"id": identity, "type": "function", "function": function}],
    }  # fmt: skip


def test_a_sliding_window_is_put_back_as_it_was_sent():
    """Each request has the last three messages; the fix gives all that the session said."""
    said = [f"This is what was said at {i} o'clock." for i in "ABCDEFGHI"]
    roles = ["user", "assistant"] * 5
    whole = [{"role": r, "content": t} for r, t in zip(roles, said, strict=False)]
    head = [{"role": "system", "content": "You help."}]
    prompts = [Prompt(head + whole[max(0, n - 3) : n], None, None, "s") for n in (1, 3, 5, 7, 9)]
    found = only(prompts)
    assert (found.kind, found.where, found.prompts) == ("history_truncated", "message 1 (user)", [2, 3, 4])
    assert [p.messages for p in fixed(prompts, found)] == [head + whole[:n] for n in (1, 3, 5, 7, 9)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([call('{"a": 1, "b": 2}')], [{**call('{"a": 1, "b": 2}'), "content": "Shortened."}]),
        (["I think about it first.\nDone, it is blue."], ["Done, it is blue."]),
        (
            [{"role": "tool", "content": '{"b": 1, "a": [2]}'}],
            [{"role": "tool", "content": '{"a":[2],"b":1}'}],
        ),
        ([{"role": "tool", "content": "a long listing"}], [{"role": "tool", "content": "[removed]"}]),
    ],
    ids=["what was said", "thoughts", "JSON", "results"],
)
def test_an_earlier_turn_that_is_said_differently_is_said_as_before(before, after):
    """The messages behind it are the same, so it is the same conversation."""
    rest = ["And now tell me all about the other parcel, please."]
    old = chat("You help.", "Where is my parcel, which I sent a week ago?", *before, *rest, session="s")
    new = chat(
        "You help.",
        "Where is my parcel, which I sent a week ago?",
        *after,
        *rest,
        "It is red.",
        "Thanks",
        session="s",
    )
    found = only([old, new])
    assert (found.kind, found.message, found.prompts) == ("history_rewritten", 2, [1])
    assert found.fix(1, new).messages == [*old.messages, *new.messages[4:]]


def test_arguments_that_templates_show_alike_are_the_same():
    """Blanks and order in the text of a call's arguments do not reach the prompt."""
    old = chat(
        "You help.", "Where is my parcel?", call('{"a": 1, "b": 2}'), "Here you see it all.", session="s"
    )
    new = chat(
        "You help.",
        "Where is my parcel?",
        call('{"b":2,"a":1}'),
        "Here you see it all.",
        "Ok",
        "Thanks",
        session="s",
    )
    assert find([old, new]) == []


def test_a_summary_in_place_of_old_turns_is_found_by_what_is_kept():
    """The latest messages stand behind it as they were."""
    said = [f"This is what was said at {i} o'clock, at length." for i in range(8)]
    old = chat("You help.", *said[:5], session="s")
    new = chat("You help.", "Summary: they talked.", *said[3:7], session="s")
    new.messages[2]["role"], new.messages[3]["role"] = "assistant", "user"
    new.messages[4]["role"], new.messages[5]["role"] = "assistant", "user"
    found = only([old, new])
    assert (found.kind, found.prompts) == ("history_rewritten", [1])
    assert [m["content"] for m in found.fix(1, new).messages] == ["You help.", *said[:7]]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            ["How do I pay?", "By card.", "And in cash?"],
            ["How do I pay?", "By card.", "And by invoice?", "Yes.", "Fine."],
        ),
        (
            ["How do I pay?", "By card.", "And in cash?"],
            ["How do I pay?", "With money.", "Which?", "Coins.", "Well."],
        ),
        (["How do I pay?", "By card.", "And in cash?"], ["Where is my parcel?", "Here.", "And now?"]),
        (["How do I pay?", "By card.", "ok"], ["ok", "Anything else?", "no"]),
        (["How do I pay?"], ["How do I pay?", "By card.", "And in cash?"]),
        (
            [
                "How do I pay?",
                {"role": "assistant", "content": "I look."},
                {"role": "tool", "content": "By card only."},
            ],
            [
                "How do I pay?",
                {"role": "assistant", "content": "I ask."},
                {"role": "tool", "content": "In cash, too."},
            ],
        ),
    ],
    ids=[
        "another question",
        "answered anew",
        "another conversation",
        "short words",
        "it grew",
        "another call",
    ],
)
def test_other_conversations_of_a_session_are_no_rewritten_history(one, two):
    """Branches, conversations side by side, and histories that grow."""
    prompts = [chat("You help.", *turns, session="s") for turns in (one, two, one, two)]
    assert find(prompts) == []


def test_conversations_side_by_side_in_one_session_are_told_apart():
    """An agent and its helper take turns; the agent's window slides, the helper's history grows."""
    agent = [f"The agent says sentence {i} of its long work." for i in range(9)]
    helper = [f"The helper says sentence {i} of its own task." for i in range(9)]
    prompts = []
    for n in (1, 3, 5, 7):
        kept = agent[max(0, n - 3) : n]
        prompts += [chat("You lead.", *kept, session="s"), chat("You lead.", *helper[:n], session="s")]
    found = only(prompts)
    assert (found.kind, found.prompts) == ("history_truncated", [4, 6])
    assert [m["content"] for m in found.fix(6, prompts[6]).messages] == ["You lead.", *agent[:7]]


def test_what_changes_in_the_system_prompt_is_no_history():
    """A new time in front; the turns are as they were."""
    prompts = [
        chat(f"{t} {RULES}", *ASKED[:n], session="s")
        for t, n in (("08:01:02", 1), ("08:01:40", 3), ("08:02:03", 5))
    ]
    assert only(prompts).kind == "timestamp"


@given(st.lists(st.integers(0, 2), max_size=9), st.lists(st.integers(0, 2), max_size=9), st.integers(1, 2))
def test_overlap_is_the_longest_end_that_is_a_beginning(old, new, least):
    """Against trying every length."""
    lengths = range(min(len(new), len(old) - least), 0, -1)
    assert breakers._overlap(old, new, least) == next(
        (n for n in lengths if old[len(old) - n :] == new[:n]), 0
    )


# -- logs that mean harm, and what is not known ---------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "1" * 1_000_000, "a-" * 500_000, "a_1" * 333_333, "2026-03-02 " * 90_000, "1:" * 500_000, '{"' * 500_000,
     '[{"a":' * 150_000, "\0" * 1_000_000, "Mon, " * 200_000, "A " * 500_000, "\n" * 1_000_000, " " * 1_000_000, "0" * 36 + "-" * 99_999],
    ids=lambda t: f"{t[:8]!r}",
)  # fmt: skip
def test_long_texts_of_one_thing_are_read_once(text):
    """A megabyte of what a pattern begins with: it takes as long as any other, and no value is lost."""
    prompts = [
        chat(head + text + tail, "Hi", session="s")
        for head, tail in itertools.product(("", "08:01:02 ", "09:01:02 "), ("", " x"))
    ]
    for candidate in find(prompts):
        for before, after in zip(prompts, fixed(prompts, candidate), strict=True):
            if candidate.kind in breakers.VOLATILE:
                assert words(after) == words(before)


PIECES = [
    "2026-03-02",
    "08:01:02",
    "req_12ab34cd",
    "\0",
    " ",
    "\n",
    "Mia Li",
    '{"a": 1}',
    "word",
    "{",
    "1",
    "\ud800",
    RULES,
]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=2, max_size=6))
def test_moving_a_value_loses_no_word(texts):
    """Whatever the texts are made of, each fix of a value only moves it."""
    prompts = [chat(t, "Hi", session=f"s{i}") for i, t in enumerate(texts)]
    for candidate in find(prompts):
        for before, after in zip(prompts, fixed(prompts, candidate), strict=True):
            if candidate.kind in (*breakers.VOLATILE, "user_name", "retrieved_documents"):
                assert len("".join(words(after).elements())) >= len("".join(words(before).elements()))
            assert after.messages[-1]["content"].startswith("Hi")


@given(st.text(alphabet='{}[]":,a1 \n', max_size=40))
def test_texts_with_damaged_json_are_compared_as_they_are(text):
    """What is no JSON stays; what is, keeps its values."""
    got = breakers._canonical(text)
    assert breakers._canonical(got) == got


def test_prompts_that_are_not_known_take_no_part():
    """Some requests of a log are known by their ids alone."""
    prompts = [
        Prompt(None),
        chat(f"08:01:02 {RULES}", "Hi"),
        Prompt(None),
        chat(f"08:01:03 {RULES}", "Hi"),
        Prompt([]),
    ]
    assert only(prompts).prompts == [1, 3]


# -- what a remedy saves --------------------------------------------------------------------------------------------


def record(number, messages, model="m", salt=None, session=None, at="2026-03-02T08:00:00Z", **body):
    """A line of an OpenAI-style log."""
    request = {"model": model, "messages": messages, **body, **({"cache_salt": salt} if salt else {})}
    answer = {"model": model, "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}}]}
    return {
        "timestamp": at, "request_id": f"r{number}", "session_id": session or f"s{number}", "latency_ms": 9,
        "request": request, "response": answer,
    }  # fmt: skip


@pytest.fixture
def traced(tmp_path):
    """traced(records, template): their trace, with tokens."""
    count = itertools.count()

    def made(records, template=None):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        (folder / "log.jsonl").write_bytes(jsonl(records))
        trace = ingest([folder / "log.jsonl"], folder / "trace", Options())
        tokenize(trace, None, template)
        return trace

    return made


def computed(trace):
    """Tokens that no earlier prompt of the trace began with."""
    ids = [c.symbols[a:b].tolist() for c in chunks(trace) for a, b in itertools.pairwise(c.offsets.tolist())]
    return sum(map(len, ids)) - sum(naive.matched([naive.Request(tuple(one), 0) for one in ids]))


def clock(i):
    """The time of request i: two days."""
    return f"2026-03-0{2 + i // 6}T08:{i:02d}:07Z"


def lined(values, mended, n=12):
    """Requests whose system prompt holds values in front, and whose tools come in an order of their own; what is mended is not so."""
    out = []
    for i in range(n):
        made = {k: v(i) for k, v in values.items()}
        front = " ".join(f"{k}={'' if k in mended else v}" for k, v in made.items())
        moved = [v for k, v in made.items() if k in mended]
        question = "\n".join([f"{ASKED[i % 5]} {i}", *([" ".join(moved)] if moved else [])])
        messages = [
            {"role": "system", "content": f"{front}\n\n{RULES}"},
            {"role": "user", "content": question},
        ]
        tools = [{"type": "function", "function": {"name": t, "description": RULES[:200]}} for t in "abcd"]
        at = 0 if "tools" in mended or i < 4 else i % 4
        out.append(record(i, messages, at=clock(i), tools=tools[at:] + tools[:at]))
    return out


def test_what_saves_nothing_alone_is_worth_what_it_saves_beside_the_others(traced):
    """A time and an id stand in each other's way, and both in that of the tools' order."""
    values = {"now": clock, "id": lambda i: f"req_{i:08x}ab12"}
    faults = {"timestamp": "now", "request_id": "id", "tool_order": "tools"}
    as_it_is = traced(lined(values, ()))

    def worth(*mended):
        return computed(as_it_is) - computed(traced(lined(values, mended)))

    whole = worth(*faults.values())
    seen = find_breakers(as_it_is)
    assert {f.kind for f in seen.findings} == set(faults)
    for finding in seen.findings:
        one = faults[finding.kind]
        alone, others = worth(one), worth(*(f for f in faults.values() if f != one))
        assert alone < 64 < whole - others
        assert finding.lost_tokens == min(whole, whole - others)
    assert seen.together == whole
    assert seen.findings[-1].lost_tokens < whole


def test_a_template_that_shows_the_time_shows_that_of_the_request(traced, tmp_path):
    """Prompts that are rendered again must be those of then, not of now."""
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{{ strftime_now('%d %b %Y') }}\n{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    )
    values = {"id": lambda i: f"req_{i:08x}ab12"}
    before = traced(lined(values, ()), str(template))
    (one,) = find_breakers(before).findings
    assert one.kind == "request_id"
    assert one.lost_tokens == computed(before) - computed(traced(lined(values, ("id",)), str(template)))


def test_values_that_nothing_stands_behind_are_not_reported(traced):
    """The question is all that follows: moving the time saves nothing."""
    records = [
        record(
            i,
            [
                {"role": "system", "content": f"{RULES}\nNow: {clock(i)}"},
                {"role": "user", "content": f"{q} {i}"},
            ],
        )
        for i, q in enumerate(ASKED * 4)
    ]
    seen = find_breakers(traced(records))
    assert (seen.findings, seen.together) == ([], 0)


def split(**by):
    """Twelve requests with the same text to three models, or under three salts, in turn."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": "Hi"}]
    return [record(i, messages, **{k: v[i % len(v)] for k, v in by.items()}) for i in range(12)]


@pytest.mark.parametrize(
    ("by", "kind", "where"),
    [
        ({"model": ["a", "b", "c"]}, "model_split", "3 models"),
        ({"salt": ["x", "y", "z"]}, "tenant_split", "3 cache salts"),
    ],
)
def test_splits_of_traffic_are_worth_a_prompt_for_each_group_but_one(traced, by, kind, where):
    """The first request of each group computes what another group has."""
    trace = traced(split(**by))
    seen = find_breakers(trace)
    (one,) = seen.findings
    assert (one.kind, one.where, one.requests, one.message) == (kind, where, 12, None)
    assert one.lost_tokens == seen.together == 2 * computed(trace)
    assert previews(trace, [one]) == [[]]


def test_splits_by_models_and_tenants_are_worth_more_together(traced):
    """With one of them gone the other one still splits."""
    trace = traced(split(model=["a", "b"], salt=["x", "y", "z"]))
    seen = find_breakers(trace)
    assert {f.kind: f.lost_tokens // computed(trace) for f in seen.findings} == {
        "model_split": 3,
        "tenant_split": 4,
    }
    assert seen.together == 5 * computed(trace)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "text"])
def test_a_trace_without_text_tells_splits_and_why_nothing_else(traced, tmp_path, level):
    """No word of the log is there to be shown."""
    values = {"id": lambda i: f"req_{i:08x}ab12"}
    records = [
        {**r, "request": {**r["request"], "model": f"m{i % 3}"}} for i, r in enumerate(lined(values, ()))
    ]
    source = traced(records)
    protected = protect(source, tmp_path / "protected", level)
    seen = find_breakers(protected)
    assert "holds no text" in seen.how
    assert {f.kind for f in seen.findings} <= {"model_split"}
    assert all(f.example is None for f in seen.findings)
    assert not any(previews(protected, seen.findings))
    assert "request_id" in {f.kind for f in find_breakers(source).findings}


def test_a_sample_says_what_it_is(traced):
    """The first requests, up to a number of them or of their tokens."""
    trace = traced(lined({"id": lambda i: f"req_{i:08x}ab12"}, ("tools",)))
    ten = find_breakers(trace, limit_requests=10)
    assert (ten.measured_requests, ten.of_requests) == (10, 12)
    assert ten.how == "measured on the first 10 of 12 requests"
    assert find_breakers(trace, limit_requests=None).how == "measured on all requests"
    few = find_breakers(trace, limit_tokens=1_500)
    assert 1 < few.measured_requests < 5


def test_a_finding_shows_the_place_before_and_after(traced):
    """An excerpt in the finding, and different requests in the preview."""
    trace = traced(lined({"id": lambda i: f"req_{i:08x}ab12"}, ("tools",)))
    (one,) = find_breakers(trace).findings
    assert (one.message, one.offset, one.requests) == (0, 3, 12)
    assert one.example.startswith("id=req_00000000ab12")
    assert one.example_fixed.startswith("id= Rule 0")
    assert max(len(one.example), len(one.example_fixed)) <= 160
    (shown,) = previews(trace, [one], n=2)
    assert [before[:19] for before, _ in shown] == ["id=req_00000000ab12", "id=req_00000001ab12"]
    assert {after[:10] for _, after in shown} == {"id= Rule 0"}


def test_an_empty_trace_has_no_breakers(traced):
    """Nothing is divided by nothing."""
    trace = traced([record(0, [{"role": "user", "content": "Hi"}])])
    seen = find_breakers(trace, limit_requests=0)
    assert (seen.findings, seen.together, seen.measured_requests) == ([], 0, 0)
