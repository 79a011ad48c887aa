"""mlx-lm's server: ten whole sequences, of which a prompt copies what it shares with the nearest.

Read in mlx-lm 0.32.2 (`models/cache.py` LRUPromptCache, `server.py`, `generate.py`):

* A prompt takes a sequence that equals it, else what it has in common with any, without its own last token.
* When a prompt is computed, all of it but the last token is kept; when its answer is there, prompt and answer, with the
  token sampled last, which has been computed by then. What such a sequence begins with is not kept beside it.
* Ten sequences (`--prompt-cache-size`). The one that was kept first goes first, however often it was used, the
  assistant's before the user's, while there are as many of the assistant's.
* `--prompt-cache-bytes` is looked at when a request comes: sequences may take what running requests leave of it.
* What is found is copied, so any number of requests may use it at once.
"""

from __future__ import annotations

from traceprof.caches.traffic import Outcome, Traffic

LABEL = "mlx-lm"
BLOCK_SIZE = 1
SEQUENCES = 10
QUANTUM = 256  # tokens by which a KV cache grows
ASSUMPTIONS = (
    "mlx-lm 0.32 with its default of 10 sequences; the KV memory given here is its --prompt-cache-bytes, by default unlimited",
    "a prompt is computed at once; what is kept for a moment at the end of a system message is left out",
    "a prompt that equals a kept sequence counts as found whole: the server of 0.32.2 stops working when it gets one",
    "full attention: what cannot be trimmed (sliding window, recurrent models) is reused only as a whole",
)


def simulate(
    traffic: Traffic, capacity_tokens: int, *, sequences: int = SEQUENCES, chat: bool = True
) -> Outcome:
    """The traffic against a cache of so many sequences, of capacity_tokens together with those that run.

    chat says whether prompts end with a user's message; if not, they count as the assistant's.

    >>> three = Traffic.of_lists([([1, 2, 3], [4, 5], 0, 1), ([1, 2, 3, 4, 5, 6], [], 2, 9), ([1, 2, 3], [], 3, 9)])
    >>> simulate(three, 100).hit_tokens.tolist()
    [0, 5, 2]
    """
    from traceprof.kernels.mlx_lm import ASSISTANT, USER, mlx_lm
    from traceprof.kernels.state import UNLIMITED

    clock = traffic.clock(quantum=QUANTUM, limit=UNLIMITED)
    kind = USER if chat else ASSISTANT
    dropped = mlx_lm(traffic.paths(), clock, sequences, capacity_tokens, kind)
    return Outcome.of(clock, int(dropped))
