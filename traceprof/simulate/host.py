"""What a model is served on in virtual time: cards, their number, the model, and each engine's factors there."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from traceprof.caches import memory
from traceprof.errors import TraceprofError, UsageError
from traceprof.simulate.cost import Costs
from traceprof.simulate.hardware import Card, Factors, card, cards
from traceprof.simulate.schedulers import ENGINES, Scheduler, scheduler
from traceprof.simulate.shape import Shape, preset, read_shape

USUAL_CARD, USUAL_MODEL = "h100", "Llama-3.1-8B"
USUAL = {
    "nvidia": ("vllm", "sglang", "tensorrt_llm", "lmdeploy", "llamacpp", "ollama"),
    "amd": ("vllm", "sglang", "llamacpp", "ollama"),
    "apple": ("llamacpp", "ollama", "mlx_lm", "vllm_mlx", "omlx"),
    "cpu": ("llamacpp", "ollama", "vllm"),
}
"""Engines that are simulated where none is named, by vendor."""
PRECISION = {"apple": "q4_k_m", "cpu": "q4_k_m"}  # what people serve there
HARDWARE = {"nvidia": "h100", "amd": "mi300x", "apple": "apple-m4-pro", "cpu": "cpu"}
"""The card that stands for a kind of hardware."""


class Host(NamedTuple):
    """A model on cards."""

    card: Card
    gpus: int
    shape: Shape
    tokens: int | None  # of KV cache, where it is known better than from memory and weights
    given: bool  # whether somebody named it
    fitted: Mapping[str, Factors]  # by engine, in place of the card's own: from `traceprof calibrate`
    max_seqs: int | None = None  # sequences that every engine runs at once; None: its default

    @classmethod
    def of(
        cls,
        gpu: str | None = None,
        gpus: int = 1,
        model: str | None = None,
        precision: str | None = None,
        kv_dtype: str = "auto",
        capacity_tokens: int | None = None,
        factors: str | Path | None = None,
    ) -> Host:
        """From what a user says; what is left out is Llama-3.1-8B on one H100.

        >>> Host.of().label, Host.of("apple-m4-pro").shape.precision
        ('Llama-3.1-8B on H100 SXM 80 GB', 'q4_k_m')
        """
        chosen = card(gpu or USUAL_CARD)
        given = any((gpu, gpus > 1, model, precision, capacity_tokens, factors))
        kind = precision or (PRECISION.get(chosen.vendor) if model is None else None)
        shape = read_shape(model, precision=kind, kv_dtype=kv_dtype) if model else preset(USUAL_MODEL, precision=kind, kv_dtype=kv_dtype)  # fmt: skip
        fitted = read_factors(factors, chosen.name, gpus, shape.precision) if factors else {}
        host = cls(chosen, gpus, shape, capacity_tokens, given, fitted)
        if gpus > 1 and not chosen.link:
            raise UsageError(
                f"{chosen.label} has no link to another one: a model is not shared over {gpus} of them",
                remedy="leave --gpus out",
            )
        if not shape.capacity_tokens(chosen, gpus):
            raise UsageError(
                f"{shape.name} does not fit on {host.cards}: its weights take {shape.model.weight_bytes / 1e9:.1f} GB",
                remedy="more --gpus, a larger --gpu, or a smaller --precision",
            )
        return host

    @property
    def cards(self) -> str:
        """How many of what."""
        return f"{self.gpus} x {self.card.label}" if self.gpus > 1 else self.card.label

    @property
    def label(self) -> str:
        """What is served on what."""
        return f"{self.shape.name} on {self.cards}"

    @property
    def capacity_tokens(self) -> int:
        """KV tokens of the engine."""
        return self.tokens or self.shape.capacity_tokens(self.card, self.gpus)

    @property
    def token_bytes(self) -> float:
        """KV bytes of a token."""
        return self.shape.model.token_bytes(self.gpus)

    @property
    def usd_per_hour(self) -> float | None:
        """Of all cards together."""
        return None if self.card.usd_per_hour is None else self.card.usd_per_hour * self.gpus

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that run there and are simulated where none is named."""
        return tuple(name for name in USUAL[self.card.vendor] if name in self.card.engines)

    def factors(self, engine: str) -> Factors:
        """How far an engine gets there."""
        return self.fitted.get(engine) or self.card.on(engine).factors

    def costs(self, engine: str, context_tokens: int = 0) -> Costs:
        """What its steps take."""
        return Costs.of(self.card, self.shape, self.gpus, self.factors(engine), context_tokens=context_tokens)

    def scheduler(self, engine: str, **changes: Any) -> Scheduler:
        """Its defaults there."""
        if engine not in ENGINES:
            raise UsageError(f"{engine} is not simulated", remedy="one of " + ", ".join(ENGINES))
        self.card.on(engine)
        if self.max_seqs is not None:
            changes = {"max_seqs": self.max_seqs, **changes}
        return scheduler(engine, self.card.memory_bytes, **changes)

    def told(self) -> dict[str, Any]:
        """`simulation.machine` of a profile."""
        return {
            "card": self.card.name, "cards": self.cards, "label": self.label, "vendor": self.card.vendor, "gpus": self.gpus,
            "model": self.shape.name, "precision": self.shape.precision, "capacity_tokens": self.capacity_tokens,
            "token_bytes": self.token_bytes, "given": self.given, "price_per_hour": self.usd_per_hour,
            "price_source": self.card.price_source if self.usd_per_hour is not None else None,
            "fitted": sorted(self.fitted),
        }  # fmt: skip


def of_memory(size: str | None) -> str | None:
    """The card that is sold with that much memory, None where none of ours is.

    >>> of_memory("80GB"), of_memory("48 GB"), of_memory("17GB"), of_memory(None)
    ('h100', 'l40s', None, 'h100')
    """
    if size is None:
        return USUAL_CARD
    wanted = memory.parse_bytes(size)
    near = [one for one in cards().values() if abs(one.memory_bytes - wanted) < 0.02 * wanted]
    known = {one.name for one in near if one.vendor == "nvidia"}
    return USUAL_CARD if USUAL_CARD in known else next(iter(sorted(known)), None)


def read_factors(
    path: str | Path, card: str | None = None, gpus: int | None = None, precision: str | None = None
) -> dict[str, Factors]:
    """Factors by engine from a file that `traceprof calibrate` wrote; raises TraceprofError where they are of another machine than is said."""
    file = Path(path)
    again = "make it: traceprof calibrate RESULTS -o FILE"
    try:
        told = tomllib.loads(file.read_text("utf-8"))
        found = {
            name: Factors(**{key: float(own[key]) for key in Factors._fields if key in own})
            for name, own in told["engines"].items()
        }
    except OSError as bad:
        raise TraceprofError(f"cannot be read: {bad.strerror}", path=file, remedy=again) from None
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise TraceprofError(f"no factors of engines: {bad}", path=file, remedy=again) from None
    for name, factors in found.items():
        if name not in ENGINES:
            raise TraceprofError(
                f"{name} is no engine that is simulated", path=file, remedy="one of " + ", ".join(ENGINES)
            )
        for key, value in factors._asdict().items():
            if not (
                math.isfinite(value)
                and (value > 0 if key in ("compute", "memory", "attention") else value >= 0)
            ):
                raise TraceprofError(
                    f"{name}.{key} is {value}", path=file, remedy="shares are above 0, seconds not below"
                )
    for key, wanted in (("card", card), ("gpus", gpus), ("precision", precision)):
        if wanted is not None and told.get(key, wanted) != wanted:
            raise TraceprofError(
                f"fitted with {key} {told[key]}, not {wanted}",
                path=file,
                remedy=f"--{key} {told[key]}" if key != "card" else f"--gpu {told[key]}",
            )
    return found
