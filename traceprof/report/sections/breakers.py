"""What breaks sharing, and what each remedy saves."""

from __future__ import annotations

from collections.abc import Mapping

from traceprof.report.parts import (
    Cell,
    Section,
    Table,
    change,
    num,
    quote,
    spoken,
)
from traceprof.report.words import (
    MISSING,
    Profile,
    at,
    clean,
    count,
    rows_of,
    short,
)


def breakers_section(profile: Profile) -> Section | None:
    """Each breaker with its place, cost and remedy."""
    breakers = [b for b in rows_of(profile, "breakers") if isinstance(b, Mapping)]
    if not breakers:
        return None
    rows = [
        (
            Cell(spoken(clean(b.get("kind"), 80))),
            Cell(clean(b.get("where"), 200)),
            num(count(b.get("requests"))),
            num(count(b.get("lost_tokens"))),
            num(change(b.get("hit_rate_before"), b.get("hit_rate_after"))),
            quote(b.get("example"), ""),
            quote(b.get("example_fixed"), ""),
            Cell(clean(b.get("remedy"), 400)),
        )
        for b in breakers
    ]
    head = ("What", "Where", "Requests", "Lost tokens", "Hit rate", "As it is", "As it would be", "Remedy")
    keep = [
        i
        for i in range(len(head))
        if i not in (4, 5, 6) or any(row[i].text not in ("", MISSING) for row in rows)
    ]
    intro = (
        "Prompts that would share more were it not for something small near their start. What each costs was measured: the prompts "
        "were changed as the remedy says and sent through the tree again."
    )
    together = at(profile, "breakers_measured", "together_tokens")
    if len(rows) > 1 and together is not None:
        intro += f" All remedies at once save {short(together)} tokens; they overlap."
    how = clean(at(profile, "breakers_measured", "how"), 200)
    if how:
        intro += f" {how[:1].upper()}{how[1:]}."
    table = Table(
        "What breaks sharing, and what to do",
        tuple(head[i] for i in keep),
        [tuple(row[i] for i in keep) for row in rows],
    )
    return Section("breakers", "What breaks sharing", [intro, table])
