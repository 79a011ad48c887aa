"""What `ingest` and `run` share: a trace at the privacy level that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from traceprof.ingest import Options
    from traceprof.tokens import TokenizerInfo
    from traceprof.trace import Trace
    from traceprof.workers import Progress

F = TypeVar("F", bound=Callable[..., Any])


def privacy_options(function: F) -> F:
    """What of the prompts the trace keeps."""
    for option in (
        click.option("--hash-block", "unit", type=click.IntRange(1, 4096), default=16, show_default=True, help="With --privacy hashes: tokens a hash stands for."),
        click.option("--key", metavar="FILE", type=click.Path(dir_okay=False), default=None, help="With --privacy: the secret that ids and blocks are hashed under; made when the file is not there.  [default: a new one, forgotten at the end]"),
        click.option("--privacy", type=click.Choice(["text", "tokens", "hashes"]), default="text", show_default=True, help="What the trace keeps of prompts: text, token ids, or keyed hashes of token blocks."),
    ):  # fmt: skip
        function = option(function)
    return function


class Kept(NamedTuple):
    """What the trace is to keep of prompts, and what turns them into ids."""

    privacy: str
    key: str | None
    unit: int
    tokenizer: str | None
    chat_template: str | None
    cut_prompts: bool


def taken(words: dict[str, Any]) -> Kept:
    """These options out of a command's; what is left decides how logs are read."""
    return Kept(**{name: words.pop(name) for name in Kept._fields})


def make_trace(
    logs: tuple[str, ...], out: str | Path, settings: Options, say: Progress | None, kept: Kept
) -> tuple[Trace, TokenizerInfo | None]:
    """Ingest the logs into `out`; below privacy level `text` tokenized, and without the text, which never stands in `out`.

    Until it is done, the text lies in a hidden folder beside `out`, which is removed whatever happens, but for a kill: then by
    the next run.
    """
    from traceprof.errors import UsageError
    from traceprof.ingest import ingest

    if kept.privacy == "text":
        if kept.key is not None:
            raise UsageError("--key does nothing at --privacy text", remedy="add --privacy hashes, or tokens")
        return ingest(logs, out, settings, say), None
    from traceprof.privacy import Key, protect
    from traceprof.tokens import tokenize
    from traceprof.trace import workspace

    target = Path(out).resolve()
    if kept.key is not None and target in Path(kept.key).resolve().parents:
        raise UsageError("the key lies inside the trace", remedy="keep --key FILE elsewhere")
    secret = Key.random() if kept.key is None else Key.file(kept.key)
    with workspace(target, resume=".text.*.partial/ingest.json" if settings.resume else None) as folder:
        text = ingest(logs, folder / "text", settings, say)
        info = tokenize(
            text,
            kept.tokenizer,
            kept.chat_template,
            cut_prompts=kept.cut_prompts,
            jobs=settings.jobs,
            progress=say,
        )
        return protect(text, out, kept.privacy, secret, unit=kept.unit, progress=say), info
