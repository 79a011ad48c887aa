"""The document that the page and the Markdown share: sections of text, tables and named charts.

Every key of the profile may be missing or null; what is there is told, what is not is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from traceprof.report.answer import Figure, answer, figures, notices, subtitle
from traceprof.report.parts import Section
from traceprof.report.sections.breakers import breakers_section
from traceprof.report.sections.cache import cache_section
from traceprof.report.sections.lengths import lengths_section
from traceprof.report.sections.load import load_section, sessions_section
from traceprof.report.sections.method import input_section, left_out_section, method_section
from traceprof.report.sections.over_time import time_section
from traceprof.report.sections.sharing import sharing_section
from traceprof.report.sections.simulated import simulation_section
from traceprof.report.sections.verdict import verdict_section
from traceprof.report.words import Profile, at, clean


@dataclass(frozen=True)
class Document:
    """What a report says, whatever it is written in."""

    title: str
    subtitle: str
    answer: list[str]  # the first sentence is the headline
    figures: list[Figure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def document(profile: Profile) -> Document:
    """Everything a report says about a profile, in the order a reader needs it."""
    sections = (
        verdict_section(profile),
        sharing_section(profile),
        time_section(profile),
        cache_section(profile),
        simulation_section(profile),
        breakers_section(profile),
        lengths_section(profile),
        load_section(profile),
        sessions_section(profile),
        left_out_section(profile),
        input_section(profile),
        method_section(profile),
    )
    name = clean(at(profile, "trace", "name"), 80)
    return Document(
        title=f"Traffic profile of {name}" if name else "Traffic profile",
        subtitle=subtitle(profile),
        answer=list(answer(profile)),
        figures=figures(profile),
        notices=list(notices(profile)),
        sections=[section for section in sections if section is not None],
    )
