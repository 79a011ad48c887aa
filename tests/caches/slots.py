"""llama.cpp's slots said slowly: the twin of `traceprof.kernels.slots`."""

from __future__ import annotations

import numpy as np

from tests.drive import drive
from tests.naive import common_prefix


class Job:
    """A request whose output can be cut short: the clock of `tests.drive` asks for no more."""

    def __init__(self, request, context):
        self.number, self.prompt = request.number, request.prompt
        self.output = request.output[: max(context - len(request.prompt), 0)]
        if len(request.prompt) >= context:
            self.output = request.output
        self.arrival, self.first, self.took, self.root = (
            request.arrival,
            request.first,
            request.took,
            request.root,
        )
        self.tokens = self.prompt + self.output
        self.final = len(self.prompt) + max(len(self.output) - 1, 0)
        self.failed = False

    def sequence(self, length):
        """Its first tokens; a root is a token before them that costs nothing."""
        return Held(self.root, self.tokens[:length])


class Held(tuple):
    """A sequence under its root."""

    def __new__(cls, root, tokens):
        made = super().__new__(cls, tokens)
        made.root = root
        return made

    def same(self, other):
        return common_prefix(self, other) if self.root == other.root else 0


NOTHING = Held(0, ())


class Slot:
    def __init__(self):
        self.tokens = NOTHING
        self.room = 0
        self.job = None
        self.used = -1


class Slots:
    def __init__(self, count, total, unified, similarity, ram, save_idle, quantum):
        self.slots = [Slot() for _ in range(count)]
        self.context = total if unified else total // count
        self.total, self.unified = (total if unified else self.context * count), unified
        self.similarity, self.ram, self.save_idle, self.quantum = (
            np.float32(similarity),
            ram,
            save_idle,
            quantum,
        )
        self.cache = []  # oldest first
        self.evicted = self.ticks = 0

    # server_prompt_cache

    def save(self, slot):
        """Whether the sequence is in RAM afterwards."""
        if self.ram == 0:
            return False
        if any(entry.same(slot.tokens) == len(slot.tokens) for entry in self.cache):
            return True
        if 0 < self.ram < len(slot.tokens):
            return False
        self.cache = [entry for entry in self.cache if entry.same(slot.tokens) < len(entry)]
        while self.ram > 0 and sum(map(len, self.cache)) + len(slot.tokens) > self.ram:
            self.evicted += len(self.cache.pop(0))
        self.cache.append(slot.tokens)
        return True

    def update(self):
        while self.ram < 0 and sum(map(len, self.cache)) > self.total:
            self.evicted += len(self.cache.pop(0))

    def best(self, slot, prompt):
        same = np.float32(slot.tokens.same(prompt))
        keep = same / np.float32(len(slot.tokens)) if slot.tokens else np.float32(-1)
        sim = same / np.float32(len(prompt))
        found = None
        for entry in self.cache:
            lcp = np.float32(entry.same(prompt))
            if lcp / np.float32(len(entry)) < np.float32(0.25):
                continue
            if keep < lcp / np.float32(len(entry)) and sim < lcp / np.float32(len(prompt)):
                keep, sim, found = lcp / np.float32(len(entry)), lcp / np.float32(len(prompt)), entry
        return found

    # server_context

    def choose(self, prompt):
        """(slot, whether it goes through RAM)"""
        idle = [slot for slot in self.slots if slot.job is None]
        best, chosen = np.float32(0), None
        for slot in idle:
            if self.similarity != 0 and slot.tokens:
                sim = np.float32(slot.tokens.same(prompt)) / np.float32(len(prompt))
                if sim > best and sim > self.similarity:
                    best, chosen = sim, slot
        if chosen is not None:
            keep = best * np.float32(len(prompt)) / np.float32(len(chosen.tokens))
            return chosen, keep < np.float32(0.5)
        for slot in idle:
            if chosen is None or slot.used <= chosen.used:
                chosen = slot
        return chosen, True

    def clear(self, slot):
        slot.tokens, slot.room = NOTHING, 0

    def rooms(self, wanted):
        """Purge idle slots one by one until there is room."""
        while sum(slot.room for slot in self.slots) + wanted > self.total:
            for slot in self.slots:
                if slot.job is None and slot.tokens:
                    self.evicted += len(slot.tokens)
                    self.clear(slot)
                    break
            else:
                return False
        return True

    def fail(self):
        for slot in self.slots:
            if slot.job is not None:
                slot.job.failed = True
                slot.job.final = slot.job.took = 0  # the clock ends it now
                self.let_go(slot)
                self.clear(slot)

    def let_go(self, slot):
        slot.job = None
        self.ticks += 1
        slot.used = self.ticks

    def takes(self, job, length):
        return min(-(-length // self.quantum) * self.quantum, job.final)

    def admit(self, job, length):
        prompt = job.sequence(length)
        slot, update = self.choose(prompt)
        if slot is None:
            return None
        safe = False
        if update and self.ram != 0:
            safe = bool(slot.tokens) and self.save(slot)
            found = self.best(slot, prompt)
            if found is not None:
                self.evicted += 0 if safe else len(slot.tokens)
                safe = False
                self.clear(slot)
                if not self.unified or sum(other.room for other in self.slots) + len(found) <= self.total:
                    self.cache = [entry for entry in self.cache if entry is not found]
                    slot.tokens, slot.room = found, len(found)
            self.update()
        slot.job = job
        if self.save_idle and self.ram != 0:
            for other in self.slots:
                if other.job is None and other.tokens:
                    saved = self.save(other)
                    self.update()
                    if self.unified:
                        self.evicted += 0 if saved else len(other.tokens)
                        self.clear(other)
        if length >= self.context:
            job.failed = True
            job.final = job.took = 0
            self.let_go(slot)
            return -1
        hit = slot.tokens.same(prompt)
        hit -= hit == len(prompt)
        self.evicted += 0 if safe else len(slot.tokens) - hit
        self.clear(slot)
        enough = not self.unified or self.rooms(self.takes(job, length))
        slot.tokens, slot.room = prompt, self.takes(job, length)
        if not enough:
            self.fail()
        return hit

    def grow(self, job, length):
        slot = next(slot for slot in self.slots if slot.job is job)
        more = self.takes(job, length) - slot.room
        if self.unified and not self.rooms(more):
            self.fail()
        else:
            slot.room += more
        return True

    def release(self, job, ended):
        for slot in self.slots:
            if slot.job is job:
                slot.tokens = job.sequence(job.final)
                assert slot.room == len(slot.tokens) or not self.unified
                slot.room = len(slot.tokens)
                self.let_go(slot)


def run(requests, total, slots, unified, similarity, ram, save_idle, quantum):
    """(hits, evicted, waited, how many failed) of the twin."""
    context = total if unified else total // slots
    model = Slots(slots, total, unified, similarity, ram, save_idle, quantum)
    jobs = [Job(request, context) for request in requests]
    done = drive(jobs, model, quantum if unified else 1 << 60)
    hits = [-1 if job.failed else hit for job, hit in zip(jobs, done.hits, strict=True)]
    return hits, model.evicted, done.waited, sum(job.failed for job in jobs)
