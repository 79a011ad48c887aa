"""An engine step by step, for requests that are not known in advance. In virtual time, in plain Python, and always the same.

    engine = Live(scheduler, costs, live_cache("vllm", 100_000))
    engine.arrive(job)
    seconds = engine.begin()    # what is computed in the next step, and how long that takes; None: there is nothing to do
    step = engine.end()         # who got a token in it, who ended, who failed

A step: every running sequence whose prompt is computed yields a token, and pieces of prompts are computed, as many as the
scheduler's budget of tokens allows; first come first served. An engine that does not mix the two computes prompts first. A prompt's
last piece yields the first token. A sequence that finds no room for its next token throws out the one that was admitted last, which
is the next to go on, with its prompt and what it had said computed anew. Once there was no room nobody is admitted until somebody
leaves. All as in `traceprof.kernels.machine`, which is faster and knows all requests ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from traceprof.simulate.cost import Costs
from traceprof.simulate.live_caches import TOKEN_BYTES, Cache
from traceprof.simulate.schedulers import Scheduler


class Job:
    """A request on its way through an engine."""

    __slots__ = (
        "arrival", "failed", "first", "held", "hit", "made", "number", "output", "prompt", "root", "started", "target", "tokens",
    )  # fmt: skip

    def __init__(
        self, number: int, prompt: bytes, output: int, *, root: str = "", arrival: float = 0.0
    ) -> None:
        assert prompt and output > 0
        self.number = number
        self.root = root  # what parts caches
        self.tokens = bytearray(prompt)  # and what is said, token by token
        self.prompt = len(prompt) // TOKEN_BYTES  # tokens
        self.output = output  # tokens to be generated
        self.arrival = arrival  # seconds, as all times here
        self.started: float | None = None  # when it was first admitted
        self.first: float | None = None  # when its first token was there
        self.hit = -1  # tokens of its prompt that were in the cache when it was first admitted
        self.made = 0  # tokens generated
        self.held = 0  # tokens that have KV: computed, or found in the cache
        self.target = 0  # tokens that are there when it may yield the next one
        self.failed = False

    @property
    def final(self) -> int:
        """Tokens that have KV in the end: the last one sampled has none."""
        return self.prompt + self.output - 1

    def sequence(self, length: int) -> bytes:
        """Its first tokens."""
        return bytes(self.tokens[: length * TOKEN_BYTES])


class Piece(NamedTuple):
    """Tokens of a prompt that are computed in a step."""

    job: Job
    new: int
    before: int  # tokens that stand before them


class Step(NamedTuple):
    """What came of a step."""

    yielded: Sequence[Job]  # one token each
    ended: Sequence[Job]  # of them, those that have said all
    failed: Sequence[Job]  # lost by the cache


class Counts:
    """What an engine counts, from its start on."""

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.generated = 0
        self.requests = self.preemptions = self.steps = 0
        self.busy_s = 0.0


class Live:
    """One engine."""

    def __init__(
        self,
        scheduler: Scheduler,
        costs: Costs,
        cache: Cache,
        vocabulary: Sequence[bytes] = (bytes(TOKEN_BYTES),),
    ) -> None:
        self.scheduler, self.costs, self.cache = scheduler, costs, cache
        self.now = 0.0  # when the step that is under way began
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []  # in the order of their admission
        self.counts = Counts()
        self._vocabulary = vocabulary
        self._pieces: list[Piece] = []
        self._decoding: list[Job] = []
        self._failed: list[Job] = []
        self._gone: set[int] = set()  # cancelled while they are in a step
        self._blocked = False  # there was no room: nobody is admitted until somebody leaves
        self._seconds: float | None = None  # of the step that is under way

    def arrive(self, job: Job) -> bool:
        """Queue a request; False where it can never have room."""
        if job.final > self.cache.limit:
            return False
        self.waiting.append(job)
        return True

    def cancel(self, job: Job) -> None:
        """Nobody wants the rest."""
        if job in self.waiting:
            self.waiting.remove(job)
            self._blocked = False
        elif job in self.running:
            if self._seconds is None:
                self._leave(job)
            else:
                self._gone.add(job.number)

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._seconds is not None

    def said(self, job: Job, k: int) -> int:
        """Which word of the vocabulary is a job's k-th."""
        return (job.number * 7919 + k * 104_729 + k * k) % len(self._vocabulary)

    # ---- a step

    def step(self, now: float) -> tuple[float, Step] | None:
        """A whole step at once: how long it takes, and what comes of it."""
        seconds = self.begin(now)
        return None if seconds is None else (seconds, self.end())

    def begin(self, now: float) -> float | None:
        """Choose what is computed next; how long that takes, None where nothing is to be done."""
        assert self._seconds is None
        self.now = now
        scheduler = self.scheduler
        self._pieces, self._decoding = [], []
        if scheduler.mixed:
            self._decode()
            self._prefill(min(scheduler.chunk_tokens, scheduler.step_tokens - len(self._decoding)))
        else:
            self._prefill(scheduler.chunk_tokens)
            if not self._pieces:
                self._decode()
        self._drop_failed()
        if not self._pieces and not self._decoding and not self._failed:
            return None
        self.cache.room()
        self._seconds = self._took() if self._pieces or self._decoding else 0.0
        self.counts.steps += 1
        self.counts.busy_s += self._seconds
        return self._seconds

    def end(self) -> Step:
        """The step is over: tokens are there."""
        assert self._seconds is not None
        over = self.now + self._seconds
        self._seconds = None
        for job, new, _ in self._pieces:
            job.held += new
            self.cache.computed(job, job.held)
        for job in self._decoding:
            job.held += 1
        yielded = self._decoding + [piece.job for piece in self._pieces if piece.job.held == piece.job.target]
        failed, self._failed = self._failed, []
        ended = []
        for job in yielded:
            if job.first is None:
                job.first = over
                self.counts.prompt_tokens += job.prompt
                self.counts.cached_tokens += job.hit
            job.tokens += self._vocabulary[self.said(job, job.made)]
            job.made += 1
            self.counts.generated += 1
            if job.made == job.output:
                self._leave(job)
                self.counts.requests += 1
                ended.append(job)
        for job in [job for job in self.running if job.number in self._gone]:
            self._leave(job)
        self._gone.clear()
        return Step(yielded, ended, failed)

    def _took(self) -> float:
        """Seconds of what was chosen."""
        return self.costs.step(
            decoding=len(self._decoding),
            prompt_tokens=sum(new for _, new, _ in self._pieces),
            read_tokens=sum(job.held + 1 for job in self._decoding)
            + sum(before for _, _, before in self._pieces),
            pairs=sum(new * (before + (new + 1) / 2) for _, new, before in self._pieces),
        )

    # ---- what is chosen

    def _decode(self) -> None:
        """One token of each whose prompt is computed."""
        for job in list(self.running):
            if job.held >= job.target and not job.failed and self._grows(job):
                self._decoding.append(job)

    def _grows(self, job: Job) -> bool:
        """Whether it has room for its next token; those admitted last go for it, at the very end itself."""
        while not self.cache.grow(job, job.held + 1):
            victim = self.running.pop()
            self.cache.release(victim, False)
            victim.held, victim.target = 0, 1
            self.waiting.appendleft(victim)
            self.counts.preemptions += 1
            self._blocked = True
            if victim is job:
                return False
        return True

    def _prefill(self, budget: int) -> None:
        """Pieces of prompts that have begun, then of those that wait."""
        scheduler = self.scheduler
        begun = [job for job in self.running if job.held < job.target and not job.failed]
        for job in begun:
            budget -= self._piece(job, budget)
        computing = len(begun)
        while (
            self.waiting
            and not (self._blocked and self.running)
            and budget > 0
            and len(self.running) < scheduler.max_seqs
            and computing < scheduler.prefill_seqs
        ):
            job = self.waiting[0]
            length = len(job.tokens) // TOKEN_BYTES
            hit = self.cache.admit(job, length)
            if hit is None and self.running:
                self._blocked = True
                return
            self.waiting.popleft()
            if hit is None:  # nobody will ever leave it room
                job.failed = True
            self.running.append(job)
            if job.failed:
                return
            assert hit is not None
            job.held, job.target = min(hit, length - 1), length
            if job.started is None:
                job.started, job.hit = self.now, hit
            budget -= self._piece(job, budget)
            computing += 1

    def _piece(self, job: Job, budget: int) -> int:
        new = min(job.target - job.held, budget)
        if new > 0:
            self._pieces.append(Piece(job, new, job.held))
        return new

    def _drop_failed(self) -> None:
        """Forget those whose memory the cache has taken."""
        lost = [job for job in self.running if job.failed]
        if lost:
            self.running = [job for job in self.running if not job.failed]
            self._pieces = [piece for piece in self._pieces if not piece.job.failed]
            self._decoding = [job for job in self._decoding if not job.failed]
            self._failed += lost
            self._blocked = False

    def _leave(self, job: Job) -> None:
        self.running.remove(job)
        self.cache.release(job, True)
        self._blocked = False
