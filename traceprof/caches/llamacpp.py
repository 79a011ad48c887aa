"""llama.cpp's server: each slot keeps the sequence it computed last, and idle ones are moved to RAM and back.

Read in llama.cpp as of 2026-10-10 (build 11549; `tools/server/server-context.cpp`, `server-task.cpp`):

* A prompt goes to the idle slot that has the largest share of it, if that is more than 10 %, else to the one that was
  used least recently. It reuses what both have in common, token by token, but for the last token of the prompt; the
  rest of the slot's sequence is lost. Slots share nothing with each other. When all are busy, requests wait.
* The chosen slot is first copied to RAM if less than half of its sequence would be kept, or if it was the least
  recently used. Then the sequence in RAM that is better in both, the share it keeps of itself (at least 25 %) and the
  share of the prompt it gives, is moved into the slot.
* When a request starts, all other idle slots are copied to RAM, and cleared where slots share one KV cache.
* RAM holds no sequence that is the beginning of another, and drops the oldest first.
* An output stays in its slot, without the token sampled last.
* A prompt that fills a slot's context is refused, after a slot was chosen and saved for it; an output ends where the context does. When a shared KV cache runs
  full, idle slots are cleared one by one; when none is left, every running request fails.
"""

from __future__ import annotations

import numpy as np

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "llama.cpp server"
BLOCK_SIZE = 1
SLOTS = 4
SIMILARITY = 0.1
RAM_BYTES = 8 << 30
QUANTUM = 16  # tokens of output that take their room at once, where slots share the context
ASSUMPTIONS = (
    "llama.cpp build 11549 with its defaults: 4 slots that share one KV cache (-np auto), 8 GiB of RAM for idle sequences",
    "with -np N each slot has an Nth of the KV cache of its own",
    "one full-attention KV cache: models with sliding windows or states need checkpoints, or compute the whole prompt",
    "a request that fails because the KV cache is full counts as refused, and nobody asks again",
    "no --cache-reuse, no id_slot, one answer a request",
)


def sized(token_bytes: float) -> dict[str, int]:
    """Options that depend on the model: the RAM cache in tokens."""
    return {"ram_tokens": int(RAM_BYTES / token_bytes)}


def simulate(
    traffic: Traffic,
    capacity_tokens: int,
    *,
    slots: int = SLOTS,
    unified: bool = True,
    ram_tokens: int = 65_536,
    save_idle: bool = True,
    similarity: float = SIMILARITY,
    quantum: int = QUANTUM,
) -> Outcome:
    """The traffic through slots with a context of capacity_tokens in all.

    slots, unified  -np and --kv-unified: not unified, each slot has capacity_tokens // slots
    ram_tokens      --cache-ram in tokens of this model, by default Llama-3.1-8B's; 0 is off, -1 "no limit", with which llama.cpp keeps capacity_tokens
    save_idle       --cache-idle-slots
    similarity      --slot-prompt-similarity

    Two that run at the same time share nothing; the third finds one of them:

    >>> chat = [1, 2, 3, 4]
    >>> three = Traffic.of_lists([(chat, [], 0, 5), (chat, [], 1, 6), ([*chat, 5, 6], [], 7, 8)])
    >>> simulate(three, 100).hit_tokens.tolist()
    [0, 0, 4]
    """
    from traceprof.kernels.slots import slots as run
    from traceprof.kernels.state import UNLIMITED

    context = capacity_tokens if unified else capacity_tokens // slots
    clock = traffic.clock(quantum if unified else UNLIMITED, limit=UNLIMITED)
    # an output ends where the context does
    output = np.where(clock.prompt < context, np.minimum(clock.output, context - clock.prompt), clock.output)
    clock = clock._replace(output=output, final=clock.prompt + np.maximum(output - 1, 0))
    evicted = run(
        traffic.paths(),
        clock,
        slots,
        context,
        int(unified),
        np.float32(similarity),
        ram_tokens,
        int(save_idle),
    )
    return Outcome.of(clock, int(evicted))
