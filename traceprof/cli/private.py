"""What `ingest` and `run` share: a trace at the privacy level that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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


def make_trace(
    logs: tuple[str, ...],
    out: str | Path,
    settings: Options,
    say: Progress | None,
    *,
    privacy: str,
    key: str | None,
    unit: int,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    cut_prompts: bool = False,
) -> tuple[Trace, TokenizerInfo | None]:
    """Ingest the logs into `out`; below privacy level `text` tokenized, and without the text, which never stands in `out`.

    Until it is done, the text lies in a hidden folder beside `out`, which is removed whatever happens, but for a kill: then by
    the next run.
    """
    from traceprof.errors import UsageError
    from traceprof.ingest import ingest

    if privacy == "text":
        if key is not None:
            raise UsageError("--key does nothing at --privacy text", remedy="add --privacy hashes, or tokens")
        return ingest(logs, out, settings, say), None
    from traceprof.privacy import Key, protect
    from traceprof.tokens import tokenize
    from traceprof.trace import workspace

    target = Path(out).resolve()
    if key is not None and target in Path(key).resolve().parents:
        raise UsageError("the key lies inside the trace", remedy="keep --key FILE elsewhere")
    secret = Key.random() if key is None else Key.file(key)
    with workspace(target, resume=".text.*.partial/ingest.json" if settings.resume else None) as folder:
        text = ingest(logs, folder / "text", settings, say)
        info = tokenize(
            text, tokenizer, chat_template, cut_prompts=cut_prompts, jobs=settings.jobs, progress=say
        )
        return protect(text, out, privacy, secret, unit=unit, progress=say), info
