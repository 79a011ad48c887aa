"""vLLM's block pool, and oMLX's store of blocks."""

from __future__ import annotations

from collections import OrderedDict

from traceprof.simulate.live_caches.base import TOKEN_BYTES, Holder, digest


class Blocks:
    """vLLM's pool: full blocks under chained hashes, one queue of free blocks. Also oMLX's, more or less.

    at_end    blocks can be found only once their request has ended
    """

    def __init__(self, tokens: int, block: int, *, at_end: bool = False) -> None:
        self._block, self._at_end = block, at_end
        self._total = max(1, tokens // block)
        self.limit = (self._total - 1) * block  # block 0 is never used
        self._tables: dict[int, list[int]] = {}  # of running jobs
        self._keys: dict[int, list[bytes]] = {}  # of their full blocks
        self._head: tuple[int, list[bytes]] = (-1, [])  # of the job that was refused last
        self.flush()

    def flush(self) -> bool:
        """Only while nothing runs."""
        if self._tables:
            return False
        self._free = OrderedDict.fromkeys(range(1, self._total))  # the first is taken first
        self._users = [0] * self._total
        self._key: dict[int, bytes] = {}  # what a block is cached for
        self._cached: dict[bytes, OrderedDict[int, None]] = {}  # the first cached first
        return True

    def used(self) -> int:
        """Blocks of running requests."""
        return (self._total - 1 - len(self._free)) * self._block

    def _chain(self, job: Holder, length: int) -> list[bytes]:
        """Keys of a job's first blocks: each of all tokens up to its end."""
        if job.number not in self._keys:
            self._keys[job.number] = self._head[1] if self._head[0] == job.number else []
        keys = self._keys[job.number]
        size = self._block * TOKEN_BYTES
        if len(keys) < length // self._block:
            told = job.sequence(length)
            before = keys[-1] if keys else digest(job.root.encode())
            for k in range(len(keys), length // self._block):
                before = digest(before + told[k * size : (k + 1) * size])
                keys.append(before)
        return keys

    def _fill(self, job: Holder, length: int, publish: int) -> None:
        """Blocks for so many tokens, of which the first `publish` can be found if they are full."""
        table = self._tables[job.number]
        while len(table) * self._block < length:
            block, _ = self._free.popitem(last=False)
            if block in self._key:
                self._forget(block)
            self._users[block] = 1
            table.append(block)
        full = publish // self._block
        if full and table[full - 1] not in self._key:
            keys = self._chain(job, publish)
            for k in range(full):
                if table[k] not in self._key:
                    self._key[table[k]] = keys[k]
                    self._cached.setdefault(keys[k], OrderedDict())[table[k]] = None

    def _forget(self, block: int) -> None:
        key = self._key.pop(block)
        del self._cached[key][block]
        if not self._cached[key]:
            del self._cached[key]

    def admit(self, job: Holder, length: int) -> int | None:
        """Blocks that are known but for the last token's, and room for the rest."""
        keys, found = self._chain(job, length), []
        for k in range((length - (not self._at_end)) // self._block):
            if keys[k] not in self._cached:
                break
            found.append(next(iter(self._cached[keys[k]])))
        idle = [block for block in found if not self._users[block]]
        if -(-length // self._block) - len(found) + len(idle) > len(self._free):
            self._head = job.number, self._keys.pop(job.number)
            return None
        for block in idle:
            del self._free[block]
        for block in found:
            self._users[block] += 1
        self._tables[job.number] = found
        hit = min(len(found) * self._block, length - 1)
        self._fill(job, length, 0 if self._at_end else length)
        return hit

    def room(self) -> None:
        """It is taken at once."""

    def computed(self, job: Holder, length: int) -> None:
        """It was known before."""

    def grow(self, job: Holder, length: int) -> bool:
        """A new block now and then."""
        if -(-length // self._block) - len(self._tables[job.number]) > len(self._free):
            return False
        last = length == job.final or self._block == 1
        known = length if last else length - 1  # a block can be found from the next token on
        self._fill(job, length, 0 if self._at_end else known)
        return True

    def release(self, job: Holder, ended: bool) -> None:
        """Blocks keep what they hold and queue up, the last first; those that are cached for nothing are taken first."""
        if ended and self._at_end:
            self._fill(job, job.held, job.held)
        first = []
        for block in reversed(self._tables.pop(job.number)):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                if block not in self._key:
                    first.append(block)
        for block in reversed(first):
            self._free.move_to_end(block, last=False)
        del self._keys[job.number]
