"""The profile as JSON: the keys of the contract, in their order, for the next program."""

from __future__ import annotations

from traceprof.report.words import Profile


def render_json(profile: Profile) -> bytes:
    """The profile as indented JSON with a newline at its end; NaN becomes null.

    >>> render_json({"schema_version": 1})
    b'{\\n  "schema_version": 1\\n}\\n'
    """
    import orjson

    return orjson.dumps(
        dict(profile), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    )
