"""`traceprof engines`: which engines a workload can be replayed against, and what is known of each."""

from __future__ import annotations

from typing import Any

import click

from traceprof.cli import options as opt


@click.command(name="engines")
@click.argument("name", required=False)
@opt.json_option
def command(name: str | None, as_json: bool) -> None:
    """List the engines that can be replayed against; with NAME, all that is known of one.

    \b
    traceprof engines
    traceprof engines vllm
    """
    from traceprof import engines

    if name is not None:
        told = engines.facts(engines.engine(name))
        if as_json:
            opt.print_json(told)
        else:
            click.echo("\n".join(_page(told)))
        return
    rows = [engines.facts(engines.engine(each)) for each in engines.NAMES]
    if as_json:
        opt.print_json(rows)
        return
    table: list[tuple[str, ...]] = [
        ("engine", "output length", "cache parted by", "cached tokens", "counters", "checked")
    ]
    table += [_row(row) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        click.echo("  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)).rstrip())


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    pinned = [name for name, endpoint in told["endpoints"].items() if endpoint["pins"]]
    where, flag = told["cached_tokens"], told["cached_tokens_need"]
    cached = "no" if where.startswith("never") else "in part" if where.startswith("only") else "yes"
    counters = told["counters"]
    counted = "no" if counters is None else "with a flag" if counters["needs"] else "yes"
    if counters is not None and "cached_tokens" not in counters["series"]:
        counted = "not of its cache"
    return (
        told["name"],
        "forced" if pinned else "bounded",
        ", ".join(told["parts_cache"]) or "a restart",
        "with a flag" if flag else cached,
        counted,
        told["checked"],
    )


def _page(told: dict[str, Any]) -> list[str]:
    """All that is known of one engine, a line each."""
    out = [f"{told['label']} ({told['name']}), checked: {told['checked']}", ""]
    if told["start_with"]:
        out.append(f"start it with   {'  '.join(told['start_with'])}")
    for name, endpoint in told["endpoints"].items():
        more = [f"salt: {endpoint['salt']}"] if endpoint["salt"] else []
        more += [f"length forced by {', '.join(endpoint['pins'])}"] if endpoint["pins"] else []
        out.append(f"{name:<16}{endpoint['path']}{'  ' + '; '.join(more) if more else ''}")
    out.append(f"ready           {told['ready']}")
    out += [f"capacity        {place}" for place in told["capacity"]]
    flush = told["flush"]
    out.append(
        f"empty the cache {flush['send']}  needs {flush['needs']}"
        if flush
        else f"empty the cache {told['between_runs']}"
    )
    needs = f"  needs {told['cached_tokens_need']}" if told["cached_tokens_need"] else ""
    out.append(f"cached tokens   {told['cached_tokens']}{needs}")
    counters = told["counters"]
    if counters is not None:
        out.append(
            f"counters        {counters['path']}{'  needs ' + counters['needs'] if counters['needs'] else ''}"
        )
        out += [f"  {meaning:<14}{' or '.join(names)}" for meaning, names in counters["series"].items()]
        if counters["prompt_tokens_leave_out_cached"]:
            out.append("  its prompt tokens leave out those that were cached")
    for title, lines in (
        ("do not use", counters["misleading"] if counters else []),
        ("know", told["notes"]),
        ("not verified", told["unverified"]),
    ):
        if lines:
            out += ["", f"{title}:", *(f"- {line}" for line in lines)]
    return out
