"""How long a step of an engine takes: a roofline of weights, products, KV cache and attention, plus what the engine adds.

    step = step_s + seq_s x D + both(W, token_s x N) + kv_s x R + pair_s x A
    W = weight_s + expert_s x (1 - (1 - expert_share)^N)
    both(a, b) = (a^p + b^p)^(1/p)

    D  sequences that decode one token in the step
    N  tokens computed in it: D and those of prompt chunks
    R  tokens of KV cache read: contexts of the decoding sequences, and what stands before each prompt chunk
    A  pairs of query and key in prompt chunks: for each, new x (before + (new + 1) / 2)

Weights are read while products run, but not quite: with p = infinity the slower of the two counts, with 1 their sum. Engines on
NVIDIA's cards lie near 1.5, by 40 of NVIDIA's own measurements (docs/hardware.md). Attention is a phase of its own in each layer. With
tensor parallelism weights, products and KV are divided over the cards; two all-reduces a layer add their latency to the step
and their bytes to each token.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from traceprof.simulate.hardware import Card, Factors
from traceprof.simulate.shape import PRECISIONS, Shape

ACTIVATION_BYTES = 2  # of a value between the layers


class Costs(NamedTuple):
    """Seconds of one step, by what is in it."""

    step_s: float
    seq_s: float
    weight_s: float
    expert_s: float
    expert_share: float
    token_s: float
    kv_s: float
    pair_s: float
    request_s: float  # outside the steps; adds to TTFT, occupies nothing
    overlap: float = inf  # p

    @classmethod
    def of(cls, card: Card, shape: Shape, gpus: int, factors: Factors, *, context_tokens: int = 0) -> Costs:
        """A model on so many cards.

        context_tokens  usual length of a sequence, for models with a sliding window

        A token of Llama-3.1-8B alone on an H100 reads 15.01 GB of weights, which takes 4.48 ms at 3.35 TB/s:

        >>> from traceprof.simulate.hardware import card
        >>> from traceprof.simulate.shape import preset
        >>> ideal = Costs.of(card("h100"), preset("Llama-3.1-8B"), 1, Factors())
        >>> round(ideal.step(decoding=1, read_tokens=0) * 1000, 2)
        4.48
        >>> half = Costs.of(card("h100"), preset("Llama-3.1-8B"), 1, Factors(memory=0.5, step_s=0.001))
        >>> round(half.step(decoding=1, read_tokens=0) * 1000, 2)
        9.96
        """
        bandwidth = card.bandwidth * gpus * factors.memory
        products = card.peak(PRECISIONS[shape.precision].products) * gpus * factors.compute
        between = card.peak("bf16") * gpus * factors.attention
        token_flops = 2 * shape.active_parameters
        decoded_s = token_flops / (card.peak("bf16") * gpus * factors.decode) if factors.decode else 0.0
        step_s, all_reduce_s = factors.step_s, 0.0
        if gpus > 1 and card.link:
            step_s += 2 * shape.layers * card.link_s
            sent = 2 * (gpus - 1) / gpus * shape.hidden * ACTIVATION_BYTES
            all_reduce_s = 2 * shape.layers * sent / card.link
        return cls(
            step_s=step_s,
            seq_s=factors.seq_s + decoded_s,
            weight_s=shape.read_bytes / bandwidth,
            expert_s=shape.expert_bytes / bandwidth,
            expert_share=shape.expert_share,
            token_s=token_flops / products + all_reduce_s,
            kv_s=shape.model.token_bytes(gpus, context_tokens) / bandwidth,
            pair_s=shape.pair_flops_at(context_tokens) / between,
            request_s=factors.request_s,
            overlap=card.overlap,
        )

    def step(self, *, decoding: int, read_tokens: float, prompt_tokens: int = 0, pairs: float = 0.0) -> float:
        """Seconds of one step.

        >>> Costs(1, 0.5, 4, 8, 0.25, 3, 0.125, 0.0625, 0).step(decoding=2, read_tokens=16, prompt_tokens=1, pairs=32)
        15.0
        """
        tokens = decoding + prompt_tokens
        weights = self.weight_s + self.expert_s * (1 - (1 - self.expert_share) ** tokens)
        products = self.token_s * tokens
        work = max(weights, products)
        if self.overlap < inf and weights > 0 and products > 0:
            work *= (1 + (min(weights, products) / work) ** self.overlap) ** (1 / self.overlap)
        return self.step_s + self.seq_s * decoding + work + self.kv_s * read_tokens + self.pair_s * pairs

    def scaled(self, times: float) -> Costs:
        """All times that many times as long: an engine of 1 / times the efficiency.

        >>> Costs(1, 1, 1, 1, 0.5, 1, 1, 1, 1).scaled(2)
        Costs(step_s=2, seq_s=2, weight_s=2, expert_s=2, expert_share=0.5, token_s=2, kv_s=2, pair_s=2, request_s=2, overlap=inf)
        """
        kept = {"expert_share": self.expert_share, "overlap": self.overlap}
        return Costs(*(value * times for value in self))._replace(**kept)
