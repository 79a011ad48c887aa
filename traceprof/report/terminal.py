"""The report in short, for a console: readable at 80 columns, plain in a pipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceprof.report.answer import answer, confidence_words, notices, subtitle
from traceprof.report.sections.lengths import histogram
from traceprof.report.sections.over_time import time_facts
from traceprof.report.sections.serving import replica_rates
from traceprof.report.sections.simulated import basis, table
from traceprof.report.words import (
    Profile,
    about,
    at,
    block_label,
    block_rates,
    clean,
    count,
    dollars,
    duration,
    engine_name,
    favourite,
    finite,
    number,
    percent,
    plural,
    rows_of,
    short,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDEST = 100  # prose wider than this is hard to read, whatever the console
BAR = 24
PREFIXES = 5
LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.-=+*%#"


def summary(
    profile: Profile, console: Console, report_path: Path | str | None = None, folder: Path | None = None
) -> None:
    """Print what matters about a profile; `folder` is the profile's own, for the line of arrivals over time."""
    page = Page(console)
    _answer(profile, page)
    _hit_rates(profile, page)
    _time(profile, page)
    _engines(profile, page)
    _replicas(profile, page)
    _breakers(profile, page)
    _prefixes(profile, page)
    _lengths(profile, page)
    _load(profile, page, folder)
    _simulation(profile, page)
    verdict_section(profile, page)
    _left_out(profile, page)
    if report_path is not None:
        page.line()
        page.line(page.text().append("Report", "bold").append(f"  {clean(report_path, 4096)}"), whole=True)


class Page:
    """A console with the few things that a summary prints; everything is Text, so nothing is read as markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = max(40, min(console.width, WIDEST))
        self.plain = not str(console.encoding).lower().startswith("utf")
        self.levels = ASCII_LEVELS if self.plain else LEVELS

    def text(self, text: str = "", style: str = "") -> Text:
        """Words in a style."""
        from rich.text import Text

        return Text(text, style)

    def line(self, text: Text | str = "", *, whole: bool = False) -> None:
        """One line as it is; `whole` lets the console break a path that is too long for it."""
        shown = self.text(text) if isinstance(text, str) else text
        if self.plain:
            for fancy, simple in (("→", "->"), ("…", "..."), ("µ", "u")):
                shown = self._replaced(shown, fancy, simple)
            shown.plain = shown.plain.encode(self.console.encoding, "replace").decode(self.console.encoding)
        self.console.print(
            shown, highlight=False, soft_wrap=whole, no_wrap=not whole, overflow="ignore", crop=False
        )

    def _replaced(self, text: Text, old: str, new: str) -> Text:
        return self.text(new).join(text.split(old, allow_blank=True)) if old in text.plain else text

    def prose(self, text: str, style: str = "", indent: int = 0, first: str = "") -> None:
        """A paragraph, wrapped; `first` stands before its first line."""
        from rich.text import Text

        whole = Text(text.replace("`", ""), style)
        for i, row in enumerate(whole.wrap(self.console, self.width - indent - len(first))):
            row.rstrip()
            self.line(self.text(" " * indent + (first if i == 0 else " " * len(first))).append_text(row))

    def head(self, title: str, rest: str = "", style: str = "dim") -> None:
        """A heading after an empty line, with a few words beside it."""
        row = self.text().append(title, "bold").append(f"  {rest}" if rest else "", style)
        row.truncate(self.width, overflow="ellipsis")
        self.line()
        self.line(row)

    def bar(self, share: float, width: int = BAR) -> Text:
        """A share of 0..1 as a bar, in eighths of a character: 0.5 over 4 is two full ones and two spaces."""
        share = min(max(share, 0.0), 1.0)
        if self.plain:
            return self.text("#" * round(share * width), "cyan").append(
                "." * (width - round(share * width)), "dim"
            )
        eighths = round(share * width * 8)
        full = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8] * (eighths % 8 > 0)
        return self.text(full.ljust(width), "cyan")

    def spark(self, values: Sequence[float], width: int) -> Text:
        """A row of small columns, one a group of values, the tallest at the top."""
        groups = _grouped(values, width)
        top = max(groups, default=0.0)
        if top <= 0:
            return self.text()
        steps = len(self.levels) - 1
        return self.text(
            "".join(self.levels[round(v / top * steps)] if v > 0 else " " for v in groups), "cyan"
        )


def _grouped(values: Sequence[float], width: int) -> list[float]:
    """The values in at most `width` groups of neighbours, each its group's mean.

    >>> _grouped([1, 3, 5, 7], 2)
    [2.0, 6.0]
    """
    n = min(width, len(values))
    cuts = [round(i * len(values) / n) for i in range(n + 1)] if n else []
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]


def _answer(profile: Profile, page: Page) -> None:
    name = clean(at(profile, "trace", "name"), page.width - 2)
    if name:
        page.line(page.text(name, "bold"))
    page.prose(subtitle(profile), "dim")
    page.line()
    told = list(answer(profile))
    page.prose(told[0], "bold")
    for text in told[1:]:
        page.prose(text)
    for notice in notices(profile):
        page.line()
        page.prose(notice, "yellow", first="! ")


def _hit_rates(profile: Profile, page: Page) -> None:
    rates = block_rates(profile)
    if not rates:
        return
    both = any(r.with_outputs is not None for r in rates)
    page.head(
        "Hit rate by block size",
        f"share of input tokens, cache without limit{', estimated' if about(profile) else ''}",
    )
    if both:
        page.line(page.text(f"  {'block size':18} {'prompts':>8}  {'':{BAR}}  {'with outputs':>12}", "dim"))
    for r in rates:
        row = page.text(f"  {block_label(r.block):18} {percent(r.rate):>8}  ").append_text(page.bar(r.rate))
        row.append(f"  {percent(r.with_outputs):>12}" if both else "").rstrip()
        page.line(row)
    same, other = (
        at(profile, "prefix", "by_origin", "same_session"),
        at(profile, "prefix", "by_origin", "other_sessions"),
    )
    if same is not None and other is not None:
        page.line(f"  of which {percent(same)} from the same session, {percent(other)} from other sessions")


def caches(part: Mapping[str, Any], console: Console) -> None:
    """Print what caches make of the traffic: `machine`, `engines`, `replicas`, `providers` of `profile.cache`."""
    page = Page(console)
    _engines({"cache": part}, page)
    _replicas({"cache": part}, page)
    _providers({"cache": part}, page)


def _engines(profile: Profile, page: Page) -> None:
    """One line an engine: its hit rate here, and where more memory would change it."""
    engines = table_of(profile, "cache", "engines")
    if not engines:
        return
    machine = clean(at(profile, "cache", "machine", "label"), 30)
    size = short(at(profile, "cache", "machine", "capacity_tokens"))
    page.head("Engines' own caches", f"hit rate, {size} KV tokens: {machine}")
    for name in engines:
        rate = at(profile, "cache", "engines", name, "hit_rate")
        label = clean(at(profile, "cache", "engines", name, "label"), 20)
        row = page.text(f"  {label:21}{percent(rate):>7}  ").append_text(
            page.bar(rate or 0.0, min(16, page.width - 34))
        )
        for note in _notes(profile, name):
            if len(row) + len(note) + 2 <= page.width:
                row.append(f"  {note}", "dim")
        row.rstrip()
        page.line(row)
    if above := _above_the_ceiling(engines):
        page.prose(
            f"{' and '.join(above)} {'has' if len(above) == 1 else 'have'} more than the infinite cache: the token of an answer that was "
            "sampled last, of which others hold no KV, is kept, too.",
            "dim",
            2,
        )
    if not at(profile, "cache", "machine", "given"):
        page.prose(
            "Nobody said what it runs on: see --model-config, --gpu-memory, --capacity-tokens.", "dim", 2
        )


def _above_the_ceiling(engines: Mapping[str, Any]) -> list[str]:
    """Engines that keep an answer to its last token, where that shows."""
    ceiling = finite(at(engines, "infinite", "hit_rate"))
    rates = {name: finite(at(engines, name, "hit_rate")) for name in ("mlx_lm", "vllm_mlx")}
    return [
        clean(at(engines, name, "label"), 20)
        for name, rate in rates.items()
        if None not in (rate, ceiling) and rate > ceiling  # type: ignore[operator]
    ]


def _replicas(profile: Profile, page: Page) -> None:
    """One line a policy: hit rates by number of replicas, and how uneven the most of them are loaded."""
    rates = replica_rates(profile)
    if not rates:
        return
    counts = list(dict.fromkeys(n for of in rates.values() for n in of))
    engine = engine_name(at(profile, "cache", "replicas", "engine"))
    each = short(at(profile, "cache", "replicas", "capacity_tokens_each"))
    page.head("Replicas behind a router", f"hit rate of {engine}'s cache, {each} KV tokens each")
    page.line(page.text(f"  {'':29}{''.join(f'{n:>9}' for n in counts)}{'busiest':>13}", "dim"))
    for label, of in rates.items():
        row = f"  {clean(label, 29):29}{''.join(f'{percent(of[n].hit_rate if n in of else None):>9}' for n in counts)}"
        uneven = of[counts[-1]].load_imbalance if counts[-1] in of else None
        page.line(row + ("" if uneven is None else f"{f'{number(uneven)} x mean':>13}"))


def _providers(profile: Profile, page: Page) -> None:
    """One line an offer, with its cheapest lifetime."""
    offers = [o for o in rows_of(profile, "cache", "providers", "offers") if at(o, "cheapest")]
    if not offers:
        return
    page.head(
        "API providers' caches",
        f"input only, list prices of {clean(at(profile, 'cache', 'providers', 'as_of'), 10)}",
    )
    page.line(page.text(f"  {'':34}{'kept':>7}{'hit rate':>10}{'no cache':>10}{'cached':>10}", "dim"))
    for o in offers:
        row = f"  {clean(at(o, 'label'), 33):34}{duration(at(o, 'ttl_s')):>7}{percent(at(o, 'hit_rate')):>10}"
        page.line(row + f"{dollars(at(o, 'input_usd_without_cache')):>10}{dollars(at(o, 'input_usd')):>10}")


def _time(profile: Profile, page: Page) -> None:
    """How sharing goes on: over time, from a cold start, and what is lost to restarts and walls."""
    facts = list(time_facts(profile))
    rates = [r or 0.0 for r in rows_of(profile, "prefix", "over_time", "hit_rate")]
    if not facts and len(rates) < 2:
        return
    page.head("Sharing over time", "cache without limit, prompts alone")
    if len(rates) > 1:
        page.line(page.text("  ").append_text(page.spark(rates, page.width - 4)))
    for fact in facts:
        page.prose(fact, indent=2)


def _breakers(profile: Profile, page: Page) -> None:
    """What costs most, and what to do about it."""
    found = rows_of(profile, "breakers")
    if not found:
        return
    page.head("What breaks sharing", clean(at(profile, "breakers_measured", "how"), 50))
    for one in found[:PREFIXES]:
        what = f"{short(at(one, 'lost_tokens'))} tokens  {clean(at(one, 'kind'), 30)}, {clean(at(one, 'where'), 60)}"
        page.prose(what, "bold", indent=2)
        page.prose(clean(at(one, "remedy"), 400), indent=4)
    if len(found) > PREFIXES:
        page.prose(f"and {len(found) - PREFIXES} more: traceprof breakers TRACE", indent=2)


def _notes(profile: Profile, name: str) -> Iterator[str]:
    """What else there is to say of an engine: who waited, who never ran, and what memory would change."""
    of = at(profile, "cache", "engines", name)
    if at(of, "waited_requests"):
        yield f"{short(at(of, 'waited_requests'))} waited"
    rates = [at(m, "hit_rate") for m in rows_of(of, "by_memory")]
    if len(rates) > 1 and None not in rates and max(rates) - min(rates) >= 0.005:
        yield f"{percent(min(rates))} to {percent(max(rates))} by memory"
    if at(of, "refused_requests"):
        yield f"{short(at(of, 'refused_requests'))} too long"


def _prefixes(profile: Profile, page: Page) -> None:
    top = rows_of(profile, "prefix", "top_prefixes")[:PREFIXES]
    if not top:
        return
    page.head("Largest shared prefixes")
    page.line(page.text(f"  {'saved':>9} {'length':>9} {'requests':>9}  starts with", "dim"))
    for p in top:
        row = page.text(
            f"  {short(p.get('saved_tokens')):>9} {short(p.get('tokens')):>9} {short(p.get('requests')):>9}  "
        )
        preview = page.text(clean(p.get("preview")) or "(text not kept)")
        preview.truncate(page.width - row.cell_len, overflow="ellipsis")
        page.line(row.append_text(preview))


def _lengths(profile: Profile, page: Page) -> None:
    sides = [(s, table_of(profile, "lengths", s)) for s in ("input", "output", "total")]
    sides = [(side, lengths) for side, lengths in sides if lengths.get("p50") is not None]
    if not sides:
        return
    shapes = {side: page.spark([n for _, _, n in histogram(profile, side)], 18) for side, _ in sides}
    page.head("Lengths in tokens")
    drawn = "   short to long" if any(shape.plain for shape in shapes.values()) else ""
    page.line(
        page.text(f"  {'':8}{''.join(f'{name:>11}' for name in ('p50', 'p95', 'p99', 'max'))}{drawn}", "dim")
    )
    for side, lengths in sides:
        numbers = "".join(f"{count(lengths.get(name)):>11}" for name in ("p50", "p95", "p99", "max"))
        row = page.text(f"  {side:8}{numbers}   ").append_text(shapes[side])
        row.rstrip()
        page.line(row)


def _load(profile: Profile, page: Page, folder: Path | None) -> None:
    busy, arrivals, sessions = (table_of(profile, key) for key in ("concurrency", "arrivals", "sessions"))
    if busy.get("mean") is not None:
        page.head("Requests in flight", "estimated" if busy.get("measured") is False else "")
        _facts(
            page,
            [
                (name, number(busy.get(name)))
                for name in ("mean", "p50", "p95", "p99", "peak")
                if busy.get(name) is not None
            ],
        )
    rates = [
        ("mean", arrivals.get("rate_mean")),
        ("busiest second", arrivals.get("rate_peak_1s")),
        ("variation of gaps", arrivals.get("cv")),
    ]
    shown = [(label, number(value)) for label, value in rates if value is not None]
    over_time = page.spark(_arrivals(folder), page.width - 4)
    if shown or over_time.plain:
        page.head("Arrivals", "requests a second")
        _facts(page, shown)
    if over_time.plain:
        page.line(page.text("  ").append_text(over_time))
    if sessions.get("count"):
        page.head("Sessions")
        turns = [
            ("sessions", count(sessions["count"])),
            ("turns, mean", number(sessions.get("turns_mean"))),
            ("turns, most", count(sessions.get("turns_max"))),
        ]
        think = sessions.get("think_time_p50")
        _facts(page, [*turns, *([("think time, median", duration(think))] if think is not None else [])])


def _facts(page: Page, facts: Sequence[tuple[str, str]]) -> None:
    """Names and values in a row, as many to a line as fit."""
    row = page.text(" ")
    for name, value in facts:
        fact = page.text(f" {name} ", "dim").append(f"{value} ", "not dim")
        if row.cell_len + fact.cell_len > page.width:
            page.line(row)
            row = page.text(" ")
        row.append_text(fact)
    if row.plain.strip():
        row.rstrip()
        page.line(row)


def _arrivals(folder: Path | None) -> list[float]:
    path = None if folder is None else Path(folder) / "concurrency.parquet"
    if path is None or not path.is_file():
        return []
    import polars as pl

    return [
        float(n or 0)
        for n in pl.read_parquet(path, columns=["offset_s", "arrivals"]).sort("offset_s")["arrivals"]
    ]


def _simulation(profile: Profile, page: Page) -> None:
    """One line an engine in virtual time, and what was run."""
    told = table_of(profile, "simulation")
    if table_of(told, "engines"):
        page.head("Engines in virtual time", clean(at(told, "machine", "label"), 50))
        table(told, page)
        page.prose(basis(told), "dim", 2)


def verdict_section(profile: Profile, page: Page) -> None:
    """The verdict, with what it rests on."""
    if not table_of(profile, "verdict"):
        return
    engine, sure = favourite(profile), confidence_words(profile)
    page.head(
        "Verdict",
        ", ".join(part for part in (engine or "no engine clearly favoured", sure) if part),
        "bold cyan",
    )
    headline = clean(at(profile, "verdict", "headline"), 600)
    if headline:
        page.prose(headline, indent=2)
    for reason in rows_of(profile, "verdict", "reasons"):
        page.prose(_reason(reason), indent=2, first="- ")
    for text in rows_of(profile, "verdict", "disagreements"):
        page.prose(f"But {clean(text, 300)}.", "yellow", indent=2)
    for flip in rows_of(profile, "verdict", "flips"):
        if at(flip, "text"):
            page.prose(
                f"{clean(at(flip, 'label'), 80)} {clean(at(flip, 'text'), 300)}", indent=2, first="flips: "
            )
    split = table_of(profile, "verdict", "split")
    if split.get("rule"):
        page.prose(f"{clean(split.get('text'), 600)} {clean(split['rule'], 600)}", indent=2, first="split: ")
        page.prose(
            "As configuration of LiteLLM, Olla, nginx or Envoy: verdict.split.config in profile.json.",
            "dim",
            9,
        )
    for text in rows_of(profile, "verdict", "advice"):
        page.prose(clean(text, 600), indent=2, first="* ")
    caveat = clean(at(profile, "verdict", "caveat"), 600)
    if caveat:
        page.prose(caveat, "dim", indent=2)
    unsure = [clean(u, 300) for u in rows_of(profile, "verdict", "unsure")]
    if unsure:
        page.prose(f"Not more sure, because {'; '.join(unsure)}.", indent=2)
    for other in rows_of(profile, "verdict", "alternatives"):
        if isinstance(other, dict):
            page.prose(
                f"{clean(other.get('engine'), 80)}, when {clean(other.get('when'), 300)}",
                indent=2,
                first="or ",
            )


def _reason(reason: Any) -> str:
    if not isinstance(reason, dict):
        return clean(reason, 600)
    yours, threshold, source = (clean(reason.get(key), 200) for key in ("yours", "threshold", "source"))
    beside = [f"yours {yours}" if yours else "", f"threshold {threshold}" if threshold else "", source]
    beside = [part for part in beside if part]
    return clean(reason.get("text"), 600) + (f" ({', '.join(beside)})" if beside else "")


def _left_out(profile: Profile, page: Page) -> None:
    rows = list(_reasons_left_out(profile))
    if rows:
        page.head("Left out", f"{plural(len(rows), 'measure')}")
    for row in rows:
        page.prose(row, indent=2, first="- ")


def _reasons_left_out(profile: Profile) -> Iterator[str]:
    for item in rows_of(profile, "left_out"):
        yield f"{clean(item.get('measure'), 80).replace('_', ' ')}: {clean(item.get('reason'), 300)}"
