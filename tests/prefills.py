"""Prefills for models that want to know of them: between `tests.drive` and the model.

It needs nothing but Python, so it serves our twins and, in an engine's own interpreter, the engine's own cache.
"""

from __future__ import annotations

ENDLESS = 1 << 60


class Prefills:
    """A model for `drive` that passes everything on and says besides when room is made and when prompts are computed.

    model.room()                     the requests admitted since the last time take the room that they were promised
    model.computed(request, length)  the result of the request's prefill is there

    `how` is one of
        "batch"        requests admitted at one instant are prefilled together, in rounds of `chunk` tokens (whole pages): those
                       of a round take room at once, and what it computed of each is there when it is over
        "admission"    each for itself, and at once
        "first token"  each for itself, and there when its first token comes (after a preemption: as long after it was
                       admitted as it would have been), before whatever else happens then, by time, then by number

    A prompt that takes more than one round is there piece by piece, after the others of each round.
    """

    def __init__(self, model, how, page=1, chunk=8192):
        self.model, self.how, self.page, self.chunk = model, how, page, chunk
        self.now = 0
        self.instant = None  # when the batch was admitted, None: there is none
        self.tokens = self.over = 0  # of that batch so far, and in rounds that are over
        self.zero = {}  # number -> when it would have been admitted, had it run without a break
        self.ran = {}  # number -> how long it had run when it was preempted
        self.computing = {}  # number -> (tokens of the batch or time after which it is there, request, length, new tokens)
        self.told = {}  # number -> end of the last round that computed a piece of it

    def _rounds(self, number, start, upto):
        """What is there of a request that is computed from `start` on, at the end of each round in that order."""
        _, request, length, new = self.computing[number]
        held = -(-length // self.page) * self.page
        for end in range(self.chunk, start + new, self.chunk):
            if max(start, self.told.get(number, 0)) < end <= upto:
                self.told[number] = end
                self.model.computed(request, held - (start + new - end))

    def _there(self, upto):
        for due, number in sorted((due, number) for number, (due, *_) in self.computing.items()):
            new = self.computing[number][3]
            if self.how == "batch":
                self._rounds(number, due - new, upto)
            elif due <= upto:
                self._rounds(number, 0, ENDLESS)
            if due <= upto:
                _, request, length, _ = self.computing.pop(number)
                self.told.pop(number, None)
                self.model.computed(request, length)

    def _at(self, time, admits=False):
        self.now = max(self.now, time)
        if self.how != "batch":
            self._there(self.now)
        elif admits and self.instant == self.now:
            whole = self.tokens // self.chunk * self.chunk
            if whole > self.over:
                self.over = whole
                self.model.room()
                self._there(whole)
        else:
            self.model.room()
            self._there(ENDLESS)
            self.instant, self.tokens, self.over = (self.now if admits else None), 0, 0

    def admit(self, request, length):
        self._at(request.arrival, admits=True)
        hit = self.model.admit(request, length)
        if hit is not None:
            zero = self.zero[request.number] = self.now - self.ran.get(request.number, 0)
            new = -(-(length - hit) // self.page) * self.page
            self.tokens += new
            due = {"batch": self.tokens, "admission": self.now, "first token": zero + request.first}[self.how]
            self.computing[request.number] = due, request, length, new
            if self.how != "batch":
                self.model.room()
        return hit

    def grow(self, request, length):
        token = length - len(request.prompt)
        pace = (request.took - request.first) * token // len(request.output)
        self._at(self.zero[request.number] + request.first + pace)
        return self.model.grow(request, length)

    def release(self, request, ended):
        if ended:
            self._at(self.zero[request.number] + request.took)
        else:
            self.ran[request.number] = self.now - self.zero[request.number]
            self.computing.pop(request.number, None)
            self.told.pop(request.number, None)
        self.model.release(request, ended)
