"""`traceprof tokenize`: fill a trace's tokens/."""

from __future__ import annotations

import click

from traceprof.cli import options as opt


@click.command(name="tokenize")
@click.argument("trace", metavar="TRACE")
@opt.tokenizer_options
@opt.jobs_option
@opt.json_option
@opt.quiet_option
def command(
    trace: str,
    tokenizer: str | None,
    chat_template: str | None,
    cut_prompts: bool,
    jobs: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn the text of a trace into token ids, through the model's chat template.

    Ids and block hashes that the log itself gave are kept.

    \b
    traceprof tokenize trace --tokenizer ./Llama-3.1-8B-Instruct
    """
    from traceprof.tokens import tokenize
    from traceprof.trace import Trace
    from traceprof.workers import keep_memory

    keep_memory()
    opened = Trace(trace)
    with opt.progress(quiet or as_json) as say:
        info = tokenize(
            opened,
            tokenizer,
            chat_template,
            cut_prompts=cut_prompts,
            jobs=opt.jobs_or_cores(jobs),
            progress=say,
        )
    if as_json:
        opt.print_json(None if info is None else info._asdict())
    elif info is None:
        click.echo("no prompt is known as text alone: nothing to tokenize")
    elif not quiet:
        click.echo(
            f"tokens of {trace} are those of {info.name}" + ("" if info.exact else ": counts are estimates")
        )
        opt.say_template_errors(info.errors)
