"""Chat templates: equal to transformers, harmless, and prepared as servers prepare them."""

import copy
import functools
import itertools
import json
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traceprof import templates
from traceprof.templates import ChatTemplate, TemplateError

TEMPLATES = sorted((Path(__file__).parent / "data" / "templates").glob("*.jinja"))
BUILT_IN = Path(__file__).parent / "data" / "built_in.jinja"  # the slow twin of templates.BuiltIn
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Météo <b>&</b> "quotes" 天気',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "東京"]},
                "days": {"type": "integer", "maximum": 2**70},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "call_123456789",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Zürich", "n": 1.5}},
}
USER = {"role": "user", "content": "Wie ist das Wetter in Zürich? 🌦\n  <|im_end|> "}
SYSTEM = {"role": "system", "content": "  Be brief.\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSunny ☀️ 漢字 </s>"}
CHATS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, USER],
    "two systems": [SYSTEM, USER, ANSWER, SYSTEM, USER],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
        }
    ],
    "tool call": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_123456789", "content": '{"t": 21}'},
        ANSWER,
        USER,
    ],
    "two calls": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "call_123456789", "content": "21"},
        {"role": "tool", "tool_call_id": "call_123456789", "content": "22"},
    ],
    "json text arguments": [
        USER,
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}]},
    ],
    "null content": [USER, {"role": "assistant", "content": None, "refusal": None}, USER],
    "developer": [{"role": "developer", "content": "Be brief."}, USER],
    "reasoning": [
        USER,
        {"role": "assistant", "reasoning": "why", "content": "that"},
        {"role": "user", "name": "Bo", "content": "x"},
    ],
    "thinking": [USER, {"role": "assistant", "thinking": "why", "content": ""}],
    "assistant first": [ANSWER, USER],
    "no content": [{"role": "user"}],
    "dict method names": [{"role": "user", "content": "x", "items": "i", "keys": "k", "get": 1}],
    "empty": [],
}


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    return transformers


@pytest.fixture(scope="module")
def theirs(transformers):
    """apply_chat_template of transformers, or the word "error" where it raises."""
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)

    def apply(source, messages, **kwargs):
        tokenizer.chat_template = source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return tokenizer.apply_chat_template(copy.deepcopy(messages), tokenize=False, **kwargs)
            except Exception:
                return "error"

    return apply


@functools.cache
def compiled(source_json):
    return ChatTemplate(json.loads(source_json), SPECIAL)


def ours(source, messages, **kwargs):
    try:
        return compiled(json.dumps(source)).render(messages, **kwargs)
    except TemplateError:
        return "error"


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("path", [*TEMPLATES, BUILT_IN], ids=lambda path: path.stem)
def test_renders_what_transformers_renders(path, chat, theirs):
    source, messages = path.read_text(), CHATS[chat]
    before = copy.deepcopy(messages)
    for tools in (None, [WEATHER], [WEATHER, WEATHER]):
        for kwargs in (
            {"add_generation_prompt": True},
            {
                "add_generation_prompt": False,
                "enable_thinking": False,
                "documents": [{"title": "t", "text": "é"}],
            },
            {"add_generation_prompt": True, "enable_thinking": False, "bos_token": "<other>"},
        ):
            expected = theirs(source, messages, tools=tools, **kwargs)
            assert ours(source, messages, tools=tools, **kwargs) == expected
            shared = templates.shared(tools)
            assert ours(source, messages, tools=shared, **kwargs) == expected
            assert ours(source, messages, tools=shared, **kwargs) == expected
    assert messages == before


def test_every_template_renders_something(theirs):
    """The comparison above is not one of errors with errors."""
    for path in [*TEMPLATES, BUILT_IN]:
        rendered = [theirs(path.read_text(), messages, tools=None) for messages in CHATS.values()]
        assert sum(text != "error" for text in rendered) >= 5, path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer"])},
    optional={
        "content": st.text() | st.none() | JSON,
        "name": st.text(max_size=3),
        "tool_call_id": st.text(max_size=3),
        "reasoning_content": st.text(max_size=5) | st.none(),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.just("c"),
                    "function": st.fixed_dictionaries({"name": st.text(max_size=3), "arguments": JSON}),
                }
            ),
            max_size=2,
        ),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(FIELDS, min_size=1, max_size=4),
    path=st.sampled_from([*TEMPLATES, BUILT_IN]),
    with_tools=st.booleans(),
)
def test_renders_what_transformers_renders_for_any_messages(theirs, messages, path, with_tools):
    tools = [WEATHER] if with_tools else None
    expected = theirs(path.read_text(), messages, tools=tools, add_generation_prompt=True)
    assert ours(path.read_text(), messages, tools=tools) == expected


def test_tool_use_template_serves_requests_with_tools(theirs):
    named = {"default": "D{{ messages|length }}", "tool_use": "T{{ tools|length }}", "rag": "{% broken"}
    for tools in (None, [], [WEATHER]):
        assert ours(named, [USER], tools=tools) == theirs(named, [USER], tools=tools)
    with pytest.raises(TemplateError, match="none of them default"):
        ChatTemplate({"rag": "x", "tool_use": "y"})


def test_strftime_now_can_be_the_time_of_the_request():
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}")
    assert template.render([USER], now=datetime(2024, 2, 29)) == "2024-02-29"
    assert template.render([USER]) == datetime.now().strftime("%Y-%m-%d")


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{% set x = messages %}{{ x.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(**{'__x': 1}) }}",
    "{{ dict.__class__.__mro__ }}",
    "{% for i in range(10000000) %}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ self.__init__.__globals__ }}",
    "{{ missing.attribute }}",
    "{{ 1 / 0 }}",
    "{{ messages[0].content + 1 }}",
    "{{ messages[0].role() }}",
    "{{ raise_exception('no') }}",
    "{{ undefined_function() }}",
    "{{ messages | tojson(indent='x' * 3, bad=1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]


SILENT = [
    "{{ messages[0]['__class__'].__init__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ '{0.__class__.__init__}'.format(1) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_or_failing_template_is_a_template_error(source):
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(TemplateError) as caught:
        print(ChatTemplate(source, SPECIAL, "t.jinja").render(messages))
    assert "\n" not in str(caught.value)
    assert messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("source", SILENT)
def test_forbidden_attribute_that_is_only_printed_prints_nothing(source, theirs):
    """jinja2's sandbox makes them undefined, and undefined prints as nothing."""
    assert ours(source, [USER]) == theirs(source, [USER]) == ""


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{", "{% endfor %}", "{% generation %}x", "{{ x | nofilter }}", "{% unknown %}"]
)
def test_template_that_does_not_compile_says_so_at_once(source):
    with pytest.raises(TemplateError, match="does not compile"):
        ChatTemplate(source, name="t.jinja")


@pytest.mark.parametrize("message", [None, 1, "text", ["role"]])
def test_message_that_is_no_object_is_a_template_error(message):
    template = ChatTemplate("{{ messages[0].role }}")
    for refuse in (template.render, template.prepare):
        with pytest.raises(TemplateError, match="not an object"):
            refuse([message])


def test_shared_tools_look_like_the_tools_they_stand_for():
    tools = [WEATHER]
    shared = templates.shared(tools)
    assert shared == tools
    assert json.dumps(shared) == json.dumps(tools)
    source = "{{ tools|tojson }}{{ tools|tojson(indent=2) }}{{ tools|tojson }}{{ tools[0] is mapping }}{{ tools[0].function }}{{ tools }}"
    assert ours(source, [USER], tools=shared) == ours(source, [USER], tools=tools)


# --- preparing messages


def test_content_format_is_openai_where_the_template_walks_over_parts():
    formats = {path.stem: ChatTemplate(path.read_text(), SPECIAL).content_format() for path in TEMPLATES}
    assert {name for name, kind in formats.items() if kind == "openai"} == {
        "parts_generation",
        "parts_only",
    }
    sliced = "{% set ms = messages[1:] %}{% for m in ms | reverse %}{% for c in (m.content | list)[1:] %}{% endfor %}{% endfor %}"
    assert ChatTemplate(sliced).content_format() == "openai"
    assert (
        ChatTemplate(
            "{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}"
        ).content_format()
        == "string"
    )


def test_parts_are_joined_for_templates_that_print_content():
    parts = [
        {"type": "text", "text": "a"},
        "b",
        {"type": "refusal", "refusal": "c"},
        {"type": "text", "text": None},
    ]
    prepared = templates.prepare_messages([{"role": "user", "content": parts}], "string")
    assert prepared == ([{"role": "user", "content": "a\nb\nc"}], 0)
    kept = templates.prepare_messages([{"role": "user", "content": parts}], "openai").messages[0]["content"]
    assert kept == [{"type": "text", "text": text} for text in "abc"]
    tool = templates.prepare_messages([{"role": "tool", "content": parts}], "openai").messages[0]["content"]
    assert tool == "a\nb\nc"


def test_equal_media_have_equal_placeholders_and_different_media_do_not():
    def placeholder(part):
        prepared = templates.prepare_messages([{"role": "user", "content": [part]}], "string")
        assert prepared.media_parts == 1
        return prepared.messages[0]["content"]

    cat = placeholder({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
    assert cat == placeholder(
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}, "cache_control": 1}
    )
    assert cat != placeholder({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAB"}})
    assert cat.startswith("<image ")
    assert placeholder({"image_url": "x"}).startswith("<image ")
    assert placeholder({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}).startswith(
        "<audio "
    )
    assert placeholder({"type": ["odd"], "x": "\ud800"}) != placeholder({})


def test_arguments_text_becomes_its_value_and_stays_where_it_is_none():
    def prepared(arguments):
        call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        before = copy.deepcopy(message)
        (result,) = templates.prepare_messages([message], "string").messages
        assert message == before
        assert result["content"] == ""
        return result["tool_calls"][0]["function"]["arguments"]

    assert prepared('{"a": [1, 18446744073709551617]}') == {"a": [1, 2**64 + 1]}
    assert prepared("not json") == "not json"
    assert prepared("") == prepared(None) == {}
    assert prepared({"a": 1}) == {"a": 1}
    assert templates.prepare_messages(
        [{"role": "assistant", "content": "x", "tool_calls": []}], "string"
    ).messages == [{"role": "assistant", "content": "x"}]
    odd = [{"role": "assistant", "content": "x", "tool_calls": ["odd", {"function": None}]}]
    assert templates.prepare_messages(odd, "string").messages == odd


def test_content_strings_become_parts_where_the_template_knows_only_parts():
    template = ChatTemplate((Path(__file__).parent / "data/templates/parts_only.jinja").read_text(), SPECIAL)
    assert template.render(template.prepare([USER]).messages).startswith("USER: " + USER["content"])
    both = ChatTemplate(
        (Path(__file__).parent / "data/templates/parts_generation.jinja").read_text(), SPECIAL
    )
    assert both.prepare([USER]).messages == [USER]


def test_built_in_template_only_ever_appends():
    """A conversation is a prefix of its continuation, without which there is no prefix to share."""
    template = ChatTemplate(BUILT_IN.read_text(), SPECIAL)
    for chat in CHATS.values():
        for tools in (None, [WEATHER]):
            messages = template.prepare(chat, tools).messages
            texts = [
                template.render(messages[:n], tools, add_generation_prompt=False)
                for n in range(1, len(messages) + 1)
            ]
            assert all(b.startswith(a) and len(b) > len(a) for a, b in itertools.pairwise(texts))


@pytest.mark.parametrize("tools", [None, [WEATHER]], ids=["no tools", "tools"])
@pytest.mark.parametrize("name", [name for name in CHATS if name != "empty"])
def test_built_in_format_equals_its_jinja_twin(name, tools):
    """Plain code writes what the template writes, and an answer by itself what it adds to the conversation."""
    ours = templates.BuiltIn(SPECIAL["bos_token"], SPECIAL["eos_token"])
    twin = ChatTemplate(BUILT_IN.read_text(), SPECIAL)
    messages = ours.prepare(CHATS[name]).messages
    assert messages == twin.prepare(CHATS[name]).messages
    for prompt in (False, True):
        assert ours.render(messages, tools, prompt) == twin.render(messages, tools, prompt)
    for answer in ours.prepare(
        [ANSWER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    ).messages:
        whole = twin.render([*messages, answer], tools, False)
        assert whole == twin.render(messages, tools, True) + ours.answer(answer) + SPECIAL["eos_token"]


def test_fallback_renders_every_chat_and_is_not_exact():
    template = templates.fallback()
    assert not template.exact
    for name, chat in CHATS.items():
        if name != "empty":
            text = template.render(template.prepare(chat, [WEATHER]).messages, [WEATHER])
            assert text.endswith("<|im_start|>assistant\n")
    assert template.render([SYSTEM, USER]).startswith(
        "<|im_start|>system\n  Be brief.\n<|im_end|>\n<|im_start|>user\n"
    )
