"""Cards that engines run on: hardware/NAME.toml, one readable file for each, with the source of every figure.

A file has the card's own figures (memory, bandwidth, peak FLOP/s without sparsity, link to its neighbours, watts, a dated price)
and, for each engine that runs on it, how much of the peaks the engine reaches and what it adds to a step and to a request.
A file with `variants` is several cards that share their engines: apple.toml has apple-m4-pro, apple-m3-ultra, ...
"""

from __future__ import annotations

import datetime
import difflib
import functools
import tomllib
from importlib import resources
from math import inf
from typing import Any, NamedTuple

from traceprof.errors import UsageError

OVERLAP = 1.5
VENDORS = ("nvidia", "amd", "apple", "cpu")


class Factors(NamedTuple):
    """How far an engine gets on a card; `calibrate` fits them to a replay."""

    compute: float = 1.0  # of peak FLOP/s, in the layers' matrix products
    memory: float = 1.0  # of peak bandwidth, reading weights and KV
    attention: float = 1.0  # of peak FLOP/s, between the tokens of prompts
    step_s: float = 0.0  # a step's own time: scheduling, launches, sampling
    seq_s: float = 0.0  # more for each sequence that decodes in it
    request_s: float = 0.0  # a request's own time outside the steps: HTTP, template, tokenizer, detokenizer
    decode: float = 0.0  # of peak FLOP/s, in products for decoding sequences that no reading of weights hides; 0: all hidden


class OnCard(NamedTuple):
    """An engine on a card."""

    factors: Factors
    cold_start_s: float | None  # from its start to its first answer, weights on a local disk
    source: str  # what the factors were fitted to, or that they are assumed


class Card(NamedTuple):
    """One accelerator, or a computer with its memory in one piece."""

    name: str
    label: str
    vendor: str  # one of VENDORS
    memory_bytes: int
    memory_share: float  # of it, what weights and KV cache may take
    bandwidth: float  # bytes a second of its memory
    flops: dict[str, float]  # peak FLOP/s by precision of the products, dense
    sustained: dict[
        str, float
    ]  # of the peak, what such products reach where those in bf16 of a data centre's card reach 1
    overlap: float  # how far reading weights and products hide each other, see cost
    link: float  # bytes a second to the other cards of a machine, one direction; 0: there are none
    link_s: float  # latency of one all-reduce
    watts: float | None
    usd_per_hour: float | None
    price_as_of: datetime.date | None
    price_source: str
    source: str
    engines: dict[str, OnCard]

    def on(self, engine: str) -> OnCard:
        """That engine on this card.

        >>> card("a100").on("vllm").factors.memory
        0.77
        """
        if engine not in self.engines:
            raise UsageError(
                f"{engine} does not run on {self.label}, or nothing is known of it there",
                remedy="one of " + ", ".join(self.engines),
            )
        return self.engines[engine]

    def peak(self, precision: str) -> float:
        """FLOP/s in that precision, or in bf16 where the card has no such products.

        >>> round(card("h100").peak("fp8") / 1e12), card("a100").peak("fp8") == card("a100").peak("bf16")
        (1504, True)
        """
        kind = precision if precision in self.flops else "bf16"
        return self.flops[kind] * self.sustained.get(kind, 1.0)

    def ideal(self) -> Card:
        """The same with every peak reached and no latency: what no engine can pass."""
        return self._replace(sustained={}, overlap=inf, link_s=0.0, link=inf if self.link else 0.0)


def card(name: str) -> Card:
    """A card by its name.

    >>> card("H100").bandwidth
    3350000000000.0
    >>> card("h10")
    Traceback (most recent call last):
    traceprof.errors.UsageError: no card h10 is known; did you mean h100?
    """
    known = cards()
    asked = name.strip().lower().replace(" ", "-").replace("_", "-")
    if asked in known:
        return known[asked]
    near = difflib.get_close_matches(asked, known, n=1)
    raise UsageError(
        f"no card {name} is known",
        remedy=f"did you mean {near[0]}?" if near else "one of " + ", ".join(known),
    )


@functools.cache
def cards() -> dict[str, Card]:
    """All cards by name, those of one file together."""
    folder = resources.files("traceprof.simulate") / "hardware"
    found: dict[str, Card] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        stem, dot, ending = file.name.rpartition(".")
        if dot and ending == "toml":
            told = tomllib.loads(file.read_text("utf-8"))
            variants = told.pop("variants", {"": {}})
            for variant, own in variants.items():
                name = f"{stem}-{variant}" if variant else stem
                found[name] = _card(name, {**told, **own})
    return found


def _card(name: str, told: dict[str, Any]) -> Card:
    price = told.get("price", {})
    on_it: dict[str, OnCard] = {}
    for engine, own in told["engines"].items():
        like = on_it[own["like"]] if "like" in own else OnCard(Factors(), None, "")
        factors = like.factors._replace(**{key: own[key] for key in Factors._fields if key in own})
        on_it[engine] = OnCard(
            factors, own.get("cold_start_s", like.cold_start_s), own.get("source", like.source)
        )
    return Card(
        name=name,
        label=told["label"],
        vendor=told["vendor"],
        memory_bytes=told["memory_bytes"],
        memory_share=told["memory_share"],
        bandwidth=told["bandwidth"],
        flops=told["flops"],
        sustained=told.get("sustained", {}),
        overlap=told.get("overlap", OVERLAP),
        link=told.get("link", 0.0),
        link_s=told.get("link_s", 0.0),
        watts=told.get("watts"),
        usd_per_hour=price.get("usd_per_hour"),
        price_as_of=price.get("as_of"),
        price_source=price.get("source", ""),
        source=told["source"],
        engines=on_it,
    )
