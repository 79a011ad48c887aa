"""Chat templates: OpenAI-style messages in, the text a serving engine tokenizes out.

`ChatTemplate.render` writes what `apply_chat_template` of Hugging Face transformers 5 writes, character for character;
`ChatTemplate.prepare` first does to the messages what an OpenAI-compatible server does to them. The template is a program from
a stranger: it runs in jinja2's sandbox, sees plain JSON values only, and every way in which it can fail is a TemplateError.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from traceprof.errors import TraceprofError

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes
    from jinja2.parser import Parser
    from jinja2.runtime import Macro

Message = dict[str, Any]
ContentFormat = Literal["string", "openai"]

#: The rendering used when a tokenizer comes without a template: ChatML, what the largest family of open models reads.
FALLBACK_SOURCE = """\
{%- if tools %}{{ '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content if message.content is string else '') }}
{%- for call in message.tool_calls or [] %}{{ '\\n' + (call.function or call) | tojson }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


class TemplateError(TraceprofError):
    """The chat template does not compile, or refuses these messages."""


class Prepared(NamedTuple):
    """Messages in the form templates expect."""

    messages: list[Message]
    media_parts: int  # images, audio, ... replaced by placeholder text; their true token count is unknown


class ChatTemplate:
    """A chat template, compiled once.

    `source` is one Jinja template, or several by name, of which `tool_use` serves requests with tools and `default` the others.

    >>> ChatTemplate("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {"bos_token": "<s>"}).render(
    ...     [{"role": "user", "content": "Hi"}])
    '<s>[user]Hi'
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        name: str = "chat template",
        *,
        exact: bool = True,
        end_of_turn: tuple[str, ...] = (),
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        self.special_tokens = dict(special_tokens or {})
        self.name = name
        self.exact = exact  # False: stands in for the template that the model was served with
        self.end_of_turn = end_of_turn  # texts that end a turn besides the tokenizer's special tokens
        if not self.sources:
            raise TemplateError(f"{name} is empty", remedy="pass --chat-template FILE")
        self._programs: dict[str, _Program] = {}
        # what most requests will use is compiled now, so that a broken file is told before the first row
        self._program(None)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        *,
        documents: Sequence[Message] | None = None,
        now: datetime | None = None,
        **kwargs: Any,
    ) -> str:
        """The text of a conversation; `now` is what the template's strftime_now() sees (default: the clock).

        Values must be plain JSON (dict, list, str, numbers, None), which is also what keeps a hostile template harmless.
        """
        if not messages:
            raise TemplateError("no messages to render")
        variables = {**self.special_tokens, **kwargs}
        variables["messages"] = _as_templates_see(messages)
        variables["tools"] = tools
        variables["documents"] = documents
        variables["add_generation_prompt"] = add_generation_prompt
        if now is not None:
            variables["strftime_now"] = now.strftime
        template = self._program(tools).template
        try:
            return template.render(variables)
        except Exception as error:  # a template can raise anything; see the module docstring
            raise TemplateError(f"{self.name}: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        """What went wrong, in words that stand in the template itself: an error may quote the prompt, and is kept."""
        said = str(error)
        if len(said) > 8 and any(said in source for source in self.sources.values()):
            return said
        return f"it raised {type(error).__name__}"

    def prepare(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Prepared:
        """Messages as an OpenAI-compatible server would hand them to this template; see prepare_messages()."""
        program = self._program(tools)
        return prepare_messages(messages, program.content_format, wrap_text=program.wraps_text)

    def content_format(self, tools: Sequence[Any] | None = None) -> ContentFormat:
        """Whether the template walks over content parts ("openai") or prints content as it is ("string")."""
        return self._program(tools).content_format

    def _program(self, tools: Sequence[Any] | None) -> _Program:
        name = "tool_use" if tools is not None and "tool_use" in self.sources else "default"
        program = self._programs.get(name)
        if program is None:
            if name not in self.sources:
                named = ", ".join(sorted(self.sources))
                raise TemplateError(
                    f"{self.name} has templates named {named}, none of them default",
                    remedy="pass --chat-template FILE",
                )
            program = self._programs[name] = _compile(self.sources[name], self.special_tokens, self.name)
        return program


class BuiltIn(ChatTemplate):
    """Our own format over DeepSeek's special tokens, for the built-in tokenizer: plain code, some ten times faster than Jinja.

    It only ever appends: n messages render to a prefix of what n + 1 messages render to, so an answer can be written by
    itself. Its twin in Jinja stands in the tests.

    >>> BuiltIn("<bos>", "<eos>").render([{"role": "user", "content": "Hi"}])
    '<bos><｜User｜>Hi<｜Assistant｜>'
    """

    def __init__(self, bos_token: str, eos_token: str) -> None:
        self.sources = {"default": "traceprof built-in format, version 1"}  # stands in the tokenizer's digest
        self.special_tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self.name = "built-in format"
        self.exact = False
        self.end_of_turn = ()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        **_: Any,
    ) -> str:
        """As ChatTemplate.render."""
        if not messages:
            raise TemplateError("no messages to render")
        parts = [self.special_tokens["bos_token"]]
        listed = "" if not tools else "## Tools\n" + "".join("\n" + _tojson(tool) for tool in tools)
        if listed and messages[0].get("role") not in ("system", "developer"):
            parts.append(listed)
        for at, message in enumerate(messages):
            role, content = message.get("role"), message.get("content") or ""
            if type(content) is not str:
                raise TemplateError(f"content of message {at} is {type(content).__name__}, not text")
            if role == "assistant":
                parts += ("<｜Assistant｜>", self.answer(message), self.special_tokens["eos_token"])
            elif role == "tool" or role == "function":
                parts += ("<｜tool▁output▁begin｜>", content, "<｜tool▁output▁end｜>")
            elif role != "system" and role != "developer":
                parts += ("<｜User｜>", content)
            elif at:
                parts += ("<｜begin▁sys｜>", content, "<｜end▁sys｜>")
            else:
                parts.append(content)
                if listed:
                    parts += ("\n\n", listed)
        if add_generation_prompt:
            parts.append("<｜Assistant｜>")
        return "".join(parts)

    def answer(self, message: Message) -> str:
        """What the model wrote: the message between the token that asks for it and the one that ends its turn."""
        content = message.get("content") or ""
        if type(content) is not str:
            raise TemplateError(f"content of an answer is {type(content).__name__}, not text")
        calls = message.get("tool_calls")
        if not calls:
            return content
        functions = [(call.get("function") or call) if isinstance(call, dict) else {} for call in calls]
        written = "".join(
            f"<｜tool▁call▁begin｜>{f.get('name', '')}<｜tool▁sep｜>{_tojson(f.get('arguments', {}))}<｜tool▁call▁end｜>"
            for f in functions
        )
        return f"{content}<｜tool▁calls▁begin｜>{written}<｜tool▁calls▁end｜>"

    def prepare(self, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Prepared:
        """As ChatTemplate.prepare."""
        for message in messages:
            if (
                type(message) is not dict
                or type(message.get("content")) is not str
                or "tool_calls" in message
            ):
                return prepare_messages(messages, "string")
        return Prepared(messages if type(messages) is list else list(messages), 0)

    def content_format(self, tools: Sequence[Any] | None = None) -> ContentFormat:
        """It prints content as it is."""
        return "string"


def fallback() -> ChatTemplate:
    """The stand-in for a tokenizer without a template; marked as not exact."""
    return ChatTemplate(FALLBACK_SOURCE, name="fallback (ChatML)", exact=False, end_of_turn=("<|im_end|>",))


# --- messages, as servers prepare them ---------------------------------------------------------------------------------------------


def prepare_messages(
    messages: Sequence[Message], content_format: ContentFormat, *, wrap_text: bool = False
) -> Prepared:
    r"""Messages as vLLM hands them to a template, with placeholders where media were.

    - tool_calls[].function.arguments: JSON text becomes its value (templates dump it again); no arguments become {}
    - null content becomes "", an empty tool_calls list is dropped
    - a list of parts is joined with "\n" for a template that prints content; for one that walks over parts it stays a list of
      {"type": "text"} parts, except in tool messages, which are always joined
    - an image or other medium becomes a text part that names its kind and hash, so that equal media still share a prefix
    - `wrap_text`: content strings become a list of one part, for templates that know parts only

    Messages that need no change are passed on as they are; none is changed in place.

    >>> prepare_messages([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "string")
    Prepared(messages=[{'role': 'user', 'content': 'a\nb'}], media_parts=0)
    """
    prepared: list[Message] = []
    media_parts = 0
    for message in messages:
        if type(message) is not dict:
            raise TemplateError(f"a message is {type(message).__name__}, not an object")
        content = message.get("content")
        if type(content) is str:
            if wrap_text:
                message = {**message, "content": [{"type": "text", "text": content}]}
        elif content is None:
            message = {**message, "content": [] if wrap_text else ""}
        elif type(content) is list:
            texts, media = _texts_of_parts(content)
            media_parts += media
            walks = content_format == "openai" and (media > 0 or message.get("role") != "tool")
            parts = [{"type": "text", "text": text} for text in texts]
            message = {**message, "content": parts if walks else "\n".join(texts)}
        calls = message.get("tool_calls")
        if calls:
            message = {**message, "tool_calls": [_with_parsed_arguments(call) for call in calls]}
        elif calls is not None:
            message = {key: value for key, value in message.items() if key != "tool_calls"}
        prepared.append(message)
    return Prepared(prepared, media_parts)


def developer_as_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with role "developer" renamed "system", for templates that know no developer."""
    return [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]


def _texts_of_parts(parts: Sequence[Any]) -> tuple[list[str], int]:
    texts: list[str] = []
    media = 0
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise TemplateError(f"a content part is {type(part).__name__}, not an object")
        kind = part.get("type")
        key = _TEXT_KEY.get(kind) if isinstance(kind, str) else None
        if key is None:
            texts.append(_media_placeholder(part))
            media += 1
        elif isinstance(text := part.get(key), str):
            texts.append(text)
    return texts, media


_TEXT_KEY = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}


def _media_placeholder(part: Mapping[str, Any]) -> str:
    import hashlib  # loads OpenSSL, a third of this package's start-up

    # "image_url", "input_image" and {"image_url": ...} without a type are all one kind: image
    named = part.get("type") or next((key for key in part if key != "uuid"), "part")
    kind = str(named).removeprefix("input_").removesuffix("_url")
    # the medium itself is hashed, not what stands around it (detail, cache_control), which no token depends on
    payload = part.get(str(named), part)
    text = payload if isinstance(payload, str) else json.dumps(payload, sort_keys=True, ensure_ascii=True)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"<{kind} {digest}>"


def _with_parsed_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        try:
            # json, as engines use it: orjson turns integers beyond 64 bits into floats
            value = json.loads(arguments)
        except ValueError:
            return call
    elif isinstance(arguments, (dict, list)):
        return call
    else:
        value = {}
    return {**call, "function": {**function, "arguments": value}}


# --- the template language -----------------------------------------------------------------------------------------------------------

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def _as_templates_see(messages: Sequence[Message]) -> list[Message]:
    """Null fields left out, and reasoning under each name by which templates call it; what needs no change is not copied."""
    seen = []
    for message in messages:
        if not isinstance(message, dict):
            raise TemplateError(f"a message is {type(message).__name__}, not an object")
        if None in message.values():
            message = {key: value for key, value in message.items() if value is not None}
        for key in _REASONING_KEYS:
            if key in message:
                reasoning = message[key]
                message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
                break
        seen.append(message)
    return seen


class _Program(NamedTuple):
    template: jinja2.Template
    content_format: ContentFormat
    wraps_text: bool  # prints nothing of a content string, so strings must come as a list of one text part


def _compile(source: str, special_tokens: Mapping[str, str], name: str) -> _Program:
    environment = _environment()
    try:
        tree = environment.parse(source)
        content_format: ContentFormat = "openai" if _walks_over_content(tree) else "string"
        template = environment.from_string(tree)
    except Exception as error:  # RecursionError on deep nesting, for one, is no jinja2 error
        line = getattr(error, "lineno", None)
        raise TemplateError(
            f"{name} does not compile: {_reason(error)}{f' (line {line} of the template)' if line else ''}",
            remedy="pass a valid Jinja template with --chat-template FILE",
        ) from error
    wraps = content_format == "openai" and _reads_parts_only(template, special_tokens)
    return _Program(template, content_format, wraps)


def _reads_parts_only(template: jinja2.Template, special_tokens: Mapping[str, str]) -> bool:
    """Whether a content string is lost on the template. vLLM always passes parts, SGLang never: we only where it matters."""
    marker = "traceprof probes this template"

    def prints(content: Any) -> bool:
        messages = [{"role": "user", "content": content}]
        try:
            return marker in template.render({**special_tokens, "messages": messages})
        except Exception:
            return False

    return not prints(marker) and prints([{"type": "text", "text": marker}])


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


@functools.cache
def _environment() -> jinja2.Environment:
    """jinja2 set up as transformers sets it up, in its sandbox."""
    import jinja2
    from jinja2 import ext, nodes, sandbox, utils
    from jinja2.compiler import CodeGenerator, Frame

    dict_attributes = frozenset(dir(dict))

    class Inlined(CodeGenerator):
        """Writes `message.role` and `message['role']` as a plain look-up where message is a dict that has the key.

        That is most of what templates compute, and what the sandbox would answer after a few Python calls.
        """

        def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802, jinja2's names
            plain = node.attr not in dict_attributes
            self._look_up(node.node, node.attr if plain else None, frame, super().visit_Getattr, node)

        def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
            key = node.arg.value if isinstance(node.arg, nodes.Const) else None
            self._look_up(node.node, key, frame, super().visit_Getitem, node)

        def _look_up(
            self,
            owner: nodes.Node,
            key: object,
            frame: Frame,
            otherwise: Callable[..., None],
            node: nodes.Node,
        ) -> None:
            if not (isinstance(owner, nodes.Name) and isinstance(key, str)):
                otherwise(node, frame)
                return
            self.write("(")
            self.visit(owner, frame)
            self.write(f"[{key!r}] if type(")
            self.visit(owner, frame)
            self.write(f") is dict and {key!r} in ")
            self.visit(owner, frame)
            self.write(" else ")
            otherwise(node, frame)
            self.write(")")

    class Generation(ext.Extension):
        """`{% generation %}...{% endgeneration %}` marks assistant text for training masks; here its body is just printed."""

        tags = {"generation"}  # noqa: RUF012, the base class declares it so

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # a call block, since the scope of {% set %} inside it must be the one that transformers gives it
            return nodes.CallBlock(self.call_method("_print"), [], [], body).set_lineno(line)

        def _print(self, caller: Macro) -> str:
            return caller()

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        code_generator_class = Inlined

        def getattr(self, obj: Any, attribute: str) -> Any:
            # a key that may be missing, such as `message.tool_calls`: the base class would raise and catch an AttributeError
            if (type(obj) is dict or type(obj) is _SharedDict) and attribute not in dict_attributes:
                try:
                    return obj[attribute]
                except KeyError:
                    return self.undefined(obj=obj, name=attribute)
            return super().getattr(obj, attribute)

    class Namespace(utils.Namespace):
        """namespace() that stores no underscore names, a way out of the sandbox."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            # no named parameter, so that a template may write namespace(self=1)
            values = dict(*args[1:], **kwargs)
            for name in values:
                check(name)
            utils.Namespace.__init__(args[0], values)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")

    class Dict:
        """dict() for templates, without the attributes of the real type."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(format: str) -> str:  # noqa: A002, templates may pass it by name
        return datetime.now().strftime(format)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=Namespace
    )
    return environment


class _SharedDict(dict[Any, Any]):
    """A dict of many renderings, which keeps its JSON."""

    __slots__ = ("_json",)
    _json: tuple[Any, str]


class _SharedList(list[Any]):
    """A list of many renderings, which keeps its JSON."""

    __slots__ = ("_json",)
    _json: tuple[Any, str]


def shared(value: Any) -> Any:
    """A JSON value for use in many renderings: `tojson` dumps each part of it once. Not to be changed afterwards.

    An agent's tools are the same in each of its requests and, at some ten kilobytes, much of what templates dump.
    """
    if isinstance(value, dict):
        return _SharedDict((key, shared(item)) for key, item in value.items())
    if isinstance(value, list):
        return _SharedList(map(shared, value))
    return value


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML characters
    if type(x) is _SharedDict or type(x) is _SharedList:
        options = (ensure_ascii, indent, separators, sort_keys)
        try:
            kept, text = x._json
            if kept == options:
                return text
        except AttributeError:
            pass
        text = json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        x._json = options, text
        return text
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# --- does the template walk over content parts? ---------------------------------------------------------------------------------------


def _walks_over_content(tree: nodes.Template) -> bool:
    """Whether some `for message in messages` holds a `for part in message.content`: vLLM's rule, read from its source.

    Followed through {% set %} of the whole list, filters, tests and slices; not into macros, which vLLM does not follow either.
    """
    from jinja2 import nodes

    lists = _names_for_messages(tree)
    items = {
        target.name
        for target, walked in _loops(tree)
        if isinstance(target, nodes.Name) and _is_one_of(walked, lists)
    }
    return any(_is_content_of(walked, items) for _, walked in _loops(tree))


def _names_for_messages(tree: nodes.Template) -> set[str]:
    from jinja2 import nodes

    names = {"messages"}
    while True:
        found = {
            assign.target.name
            for assign in tree.find_all(nodes.Assign)
            if isinstance(assign.target, nodes.Name) and _is_one_of(assign.node, names)
        }
        if found <= names:
            return names
        names |= found


def _loops(tree: nodes.Template) -> Iterator[tuple[nodes.Node, nodes.Node]]:
    from jinja2 import nodes

    return ((loop.target, _bare(loop.iter)) for loop in tree.find_all(nodes.For))


def _bare(node: nodes.Node) -> nodes.Node:
    """The expression under its filters, tests and slices: `messages[1:] | reverse` -> `messages`."""
    from jinja2 import nodes

    if isinstance(node, (nodes.Filter, nodes.Test)) and node.node is not None:
        return _bare(node.node)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _bare(node.node)
    return node


def _is_one_of(node: nodes.Node, names: set[str]) -> bool:
    from jinja2 import nodes

    node = _bare(node)
    return isinstance(node, nodes.Name) and node.name in names


def _is_content_of(node: nodes.Node, names: set[str]) -> bool:
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        key: object = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        key = node.arg.value
    else:
        return False
    return key == "content" and isinstance(node.node, nodes.Name) and node.node.name in names
