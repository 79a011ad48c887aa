"""`traceprof calibrate`: virtual engines made as fast as real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from traceprof.cli import options as opt

if TYPE_CHECKING:
    from traceprof.simulate.calibrate import Errors


@click.command(name="calibrate")
@click.argument("results", metavar="RESULTS")
@click.option("-o", "--out", metavar="FILE", default="factors.toml", show_default=True, type=click.Path(dir_okay=False), help="File of factors, for --factors.")  # fmt: skip
@click.option("--max-seqs", type=click.IntRange(1), default=None, help="Sequences that the engines were started to run at once.  [default: their own]")  # fmt: skip
@opt.virtual_options
@opt.json_option
@opt.quiet_option
def command(results: str, out: str, max_seqs: int | None, as_json: bool, quiet: bool, **words: Any) -> None:
    """Fit how fast virtual engines are to a replay on real ones, and say how far off they are on the half that was not fitted to.

    \b
    traceprof replay shared.parquet --engine vllm=http://localhost:8000 -o results
    traceprof calibrate results --gpu l40s --model-config ./my-model -o factors.toml
    traceprof simulate trace --gpu l40s --model-config ./my-model --factors factors.toml
    """
    from traceprof.results import Results
    from traceprof.simulate.calibrate import calibrate, write

    found = Results(results)
    host = opt.host(words)
    with opt.progress(quiet or as_json) as say:
        fits, left_out = calibrate(found, host, max_seqs=max_seqs, progress=say)
    write(Path(out), fits, host)
    if as_json:
        told = [{**fit._asdict(), **{name: getattr(fit, name)._asdict() for name in ("factors", "before", "after", "in_sample")}} for fit in fits]  # fmt: skip
        opt.print_json({"machine": host.told(), "fits": told, "left_out": left_out, "file": out})
    elif not quiet:
        click.echo(f"{host.label}: error on the half of the requests that the fit did not see")
        click.echo(f"  {'':14}{'requests':>9}{'ttft':>9}{'tpot':>9}{'e2e':>9}{'tok/s':>9}   (before the fit)")
        for fit in fits:
            before = f"({' '.join(_words(fit.before))})"
            click.echo(
                f"  {fit.engine:14}{fit.held_out_requests:>9,}{''.join(f'{word:>9}' for word in _words(fit.after))}   {before}"
            )
        for why in left_out:
            click.echo(f"! {why}")
        click.echo(f"Factors  {out}")


def _words(errors: Errors) -> list[str]:
    return ["-" if value is None else f"{100 * value:.1f} %" for value in errors]
