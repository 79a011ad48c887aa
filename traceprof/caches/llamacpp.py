"""llama.cpp's server: slots that each keep one sequence, and a cache of whole sequences in RAM.

Read in llama.cpp (`tools/server/server-context.cpp`, `server-task.cpp`, autumn 2026):

* A request goes to the idle slot that has most of its prompt, if that is more than a tenth of it (`--slot-prompt-similarity`),
  else to the one that was released longest ago, where slots that were never used come first, from the last.
* If the slot would lose more than half of what it keeps, or was chosen by age, its sequence is copied to RAM first
  (`--cache-ram`, 8 GiB), and the best sequence in RAM, if it has more than the slot, is moved into it.
* Whenever a request starts, all other idle slots are saved to RAM too, and emptied where slots share one KV cache.
* RAM throws out the oldest. A sequence that another one begins with is not kept beside it.
* The slot then computes what its sequence does not share with the prompt, at least one token. Prompt and answer stay in it.

So two requests that run side by side never share, however much their prompts have in common.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "llama.cpp server"
BLOCK_SIZE = 1
SLOTS = 4
SIMILARITY = 0.1
RAM_BYTES = 8 << 30
ASSUMPTIONS = (
    "llama.cpp of autumn 2026 with its defaults: 4 slots that share one KV cache (-np auto), --cache-ram 8192, idle slots saved",
    "the context (-c) is all the KV memory; a request waits until prompt and answer fit beside those that run",
    "full attention: sliding-window and recurrent models need checkpoints and reuse less",
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
) -> Outcome:
    """The traffic through a server with a context of capacity_tokens (-c), shared by its slots or divided among them.

    ram_tokens is what --cache-ram holds of this model: 8 GiB are 65,536 tokens of Llama-3.1-8B.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 6], [], 2, 9), ([1, 2, 3, 7], [], 3, 9)])
    >>> simulate(chat, 100).hit_tokens.tolist(), simulate(chat, 100, ram_tokens=0).hit_tokens.tolist()
    ([0, 4, 0], [0, 4, 0])
    """
    from traceprof.kernels.clock import UNLIMITED
    from traceprof.kernels.slots import slots as run

    room = capacity_tokens if unified else capacity_tokens // slots
    clock = traffic.clock(quantum=UNLIMITED, limit=room)
    dropped = run(traffic.paths(), clock, slots, room, int(unified), ram_tokens, int(save_idle), similarity)
    return Outcome.of(clock, int(dropped))
