"""`traceprof`: the group of verbs, and the one place where errors become a line and an exit code.

Exit codes: 0 done, 1 the job failed, 2 bad usage, 3 done but records were rejected and --strict was given.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

from traceprof import __version__
from traceprof.errors import TraceprofError

VERBS = (
    "run", "ingest", "tokenize", "profile", "report", "caches", "breakers", "workload", "simulate", "replay", "calibrate", "compare", "inspect", "formats", "engines",
)  # fmt: skip


class Verbs(click.Group):
    """Verbs live in one file each, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used, not by alphabet."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, from its own file."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"traceprof.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A mistyped verb gets a hint."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as bad:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1)
            if near:
                raise click.UsageError(f"{bad.message} Did you mean {near[0]!r}?", ctx) from None
            raise


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="traceprof %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Profile your own LLM traffic before you choose, tune or migrate a serving engine.

    \b
    traceprof run LOG...           everything in one go: OUT/trace, OUT/profile, OUT/report.html
    traceprof run chat.jsonl.gz -o out --tokenizer ./my-model
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the command and end the process with its exit code."""
    words = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up on the way out
    debug = "--debug" in words  # wherever it stands
    words = [w for w in words if w != "--debug"]
    try:
        code = cli.main(words, prog_name="traceprof", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as bare:
        click.echo(bare.format_message())
        sys.exit(2)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        _say("interrupted; nothing was changed")
        sys.exit(130)
    except KeyboardInterrupt:
        _say("interrupted; nothing was changed")
        sys.exit(130)
    except click.ClickException as bad:
        if debug:
            raise
        context = getattr(bad, "ctx", None)
        hint = f" (see: {context.command_path} --help)" if context else ""
        _say(" ".join(bad.format_message().split()) + hint)
        sys.exit(2)
    except TraceprofError as bad:
        if debug:
            raise
        _say(str(bad))
        sys.exit(bad.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _say("out of memory; a smaller --jobs needs less")
        sys.exit(1)
    except OSError as bad:
        if debug:
            raise
        place = f"{bad.filename}: " if bad.filename else ""
        _say(f"{place}{bad.strerror or bad}; check the path and the free space")
        sys.exit(1)
    except Exception as bug:
        if debug:
            raise
        _say(
            f"a bug in traceprof: {type(bug).__name__}: {bug}; run again with --debug and report what it shows"
        )
        sys.exit(1)


def _say(message: Any) -> None:
    click.echo(f"Error: {message}", err=True)


if __name__ == "__main__":
    main()
