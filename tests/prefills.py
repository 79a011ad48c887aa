"""First tokens for models that want to know of them: between `tests.drive` and the model.

It needs nothing but Python, so it serves our twins and, in an engine's own interpreter, the engine's own cache.
"""

from __future__ import annotations


class FirstTokens:
    """A model for `drive` that passes everything on, and calls model.computed(request, length) when a prompt is computed.

    That is when the request's first token comes (after a preemption: as long after it was admitted as it would have been),
    or at admission, where `late` is False. What is due is said before whatever happens at that time or later, in the
    order of time, then of the requests' numbers.
    """

    def __init__(self, model, late=True):
        self.model, self.late = model, late
        self.now = 0
        self.zero = {}  # number -> when it would have been admitted, had it run without a break
        self.ran = {}  # number -> how long it had run when it was preempted
        self.computing = {}  # number -> (when it is done, request, length)

    def _at(self, time):
        self.now = max(self.now, time)
        for due, number in sorted((due, number) for number, (due, *_) in self.computing.items()):
            if due <= self.now:
                _, request, length = self.computing.pop(number)
                self.model.computed(request, length)

    def admit(self, request, length):
        self._at(request.arrival)
        hit = self.model.admit(request, length)
        if hit is not None:
            zero = self.zero[request.number] = self.now - self.ran.get(request.number, 0)
            due = zero + request.first if self.late else self.now
            self.computing[request.number] = due, request, length
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
        self.model.release(request, ended)
