"""mlx-lm's server: ten whole sequences, of which a prompt copies what it shares with the nearest.

Read in mlx-lm 0.32.2 (`models/cache.py` LRUPromptCache, `server.py`):

* A finished request's prompt and answer are kept as one sequence; sequences that it begins with go.
* A prompt takes a sequence that equals it, else the longest common prefix with any, without its own last token.
* Ten sequences (`--prompt-cache-size`); the one that was kept first goes first, however often it was used.
* What is found is copied, so any number of requests may use it at once.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "mlx-lm"
BLOCK_SIZE = 1
SEQUENCES = 10
ASSUMPTIONS = (
    "mlx-lm 0.32 with its defaults: 10 sequences, no limit of bytes but the KV memory given here",
    "sequences that it also keeps at the ends of system and user messages, while a prompt is computed, are left out: tokens alone do not tell messages apart",
    "full attention: what cannot be trimmed (sliding window, recurrent models) is reused only as a whole",
)


def simulate(traffic: Traffic, capacity_tokens: int, *, sequences: int = SEQUENCES) -> Outcome:
    """The traffic against a cache of so many sequences, of capacity_tokens together.

    >>> chat = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 6], [], 2, 9), ([1, 2, 3, 7], [], 3, 9)])
    >>> simulate(chat, 100).hit_tokens.tolist()
    [0, 4, 3]
    """
    from traceprof.kernels.clock import UNLIMITED
    from traceprof.kernels.entries import MLX_LM
    from traceprof.kernels.entries import sequences as run

    clock = traffic.clock(quantum=UNLIMITED, limit=UNLIMITED)
    dropped = run(traffic.paths(), clock, MLX_LM, sequences, capacity_tokens)
    return Outcome.of(clock, int(dropped))
