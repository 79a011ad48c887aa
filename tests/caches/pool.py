"""A pool of blocks said slowly: the twin of `traceprof.kernels.block_pool`."""

from __future__ import annotations


class Pool:
    """Blocks are numbers, the free queue a list, a hash is the tokens themselves."""

    def __init__(self, total, block, order="prepend"):
        self.block, self.order = block, order
        self.free = list(range(1, total))
        self.refs = dict.fromkeys(self.free, 0)
        self.hash_of = {}  # block -> root and tokens
        self.cached = {}  # root and tokens -> blocks, the first cached first
        self.tables = {}
        self.evicted = 0

    def _new(self):
        block = self.free.pop(0)
        if block in self.hash_of:
            key = self.hash_of.pop(block)
            self.cached[key].remove(block)
            self.evicted += 1
        self.refs[block] = 1
        return block

    def _fill(self, request, length):
        """Blocks for so many tokens, the full ones cached."""
        table = self.tables[request.number]
        while len(table) * self.block < length:
            table.append(self._new())
        for k in range(length // self.block):
            if table[k] in self.hash_of:
                continue
            key = (request.root, request.tokens[: (k + 1) * self.block])
            self.hash_of[table[k]] = key
            self.cached.setdefault(key, []).append(table[k])

    def admit(self, request, length):
        hits = []
        for k in range((length - 1) // self.block):
            found = self.cached.get((request.root, request.tokens[: (k + 1) * self.block]))
            if not found:
                break
            hits.append(found[0])
        needed = -(-length // self.block) - len(hits)
        if needed + sum(self.refs[b] == 0 for b in hits) > len(self.free):
            return None
        for block in hits:
            if self.refs[block] == 0:
                self.free.remove(block)
            self.refs[block] += 1
        self.tables[request.number] = hits
        found = len(hits) * self.block
        self._fill(request, length)
        return found

    def grow(self, request, length):
        if -(-length // self.block) - len(self.tables[request.number]) > len(self.free):
            return False
        self._fill(request, length)
        return True

    def release(self, request, ended):
        freed = []
        for block in reversed(self.tables.pop(request.number)):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                freed.append(block)
        first = [b for b in freed if b not in self.hash_of] if self.order == "prepend" else []
        self.free = first + self.free + [b for b in freed if b not in first]
