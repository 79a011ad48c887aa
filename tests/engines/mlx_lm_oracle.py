"""mlx-lm's own LRUPromptCache under our clock, used as its server uses it; run by an interpreter with mlx-lm, see `oracle.answers`."""

import json
import sys

from drive import Request, drive
from mlx_lm.models.cache import LRUPromptCache


class Layer:
    """A KV cache that has one byte a token and no tokens."""

    def __init__(self, tokens):
        self.nbytes = tokens

    def is_trimmable(self):
        return True

    def trim(self, tokens):
        self.nbytes -= tokens
        return tokens


class Server:
    """What `server.py` does with the cache: ResponseGenerator._generate."""

    def __init__(self, most, capacity, kind):
        self.cache = LRUPromptCache(most)
        self.capacity, self.kind = capacity, kind
        self.active = {}
        self.dropped = 0
        self.known = {}  # id of an entry -> model, tokens

    def admit(self, request, length):
        prompt, model = list(request.prompt), request.root
        found, rest = self.cache.fetch_nearest_cache(model, prompt)
        hit = len(prompt) - len(rest)
        assert (found[0].nbytes if found else 0) == hit
        before = self.cache.nbytes
        self.cache.trim_to(n_bytes=self.capacity - sum(self.active.values()) - hit)
        self.dropped += before - self.cache.nbytes
        self.active[request.number] = length
        if len(rest) > 1:
            self._insert(model, prompt[:-1], self.kind)
        return hit

    def _insert(self, model, tokens, kind):
        kept = {id(e) for e in self._entries()}
        self.cache.insert_cache(model, tokens, [Layer(len(tokens))], cache_type=kind)
        assert len(self.cache) == len(list(self._entries()))
        self.dropped += self._thrown_out(kept, model, tokens)

    def _thrown_out(self, kept, model, tokens):
        """Tokens of what is gone, but for what the new sequence begins with."""
        now = {id(e) for e in self._entries()}
        gone = [self.known[i] for i in kept - now]
        self.known = {id(e): (m, t) for e, m, t in self._listed()}
        fell = sum(len(t) for m, t in gone if (m, t) != (model, tokens[: len(t)]))
        if (model, tokens) not in self.known.values():
            fell += len(tokens)  # the new one itself
        return fell

    def _listed(self):
        for queue in self.cache._lru._lrus.values():
            for model, tokens in queue:
                yield self.cache._trie.get(model, tokens), model, tokens

    def _entries(self):
        for entry, _, _ in self._listed():
            yield entry

    def grow(self, request, length):
        self.active[request.number] = length
        return True

    def release(self, request, ended):
        del self.active[request.number]
        self._insert(request.root, list(request.tokens), "assistant")


for line in sys.stdin:
    asked = json.loads(line)
    requests = [Request(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    model = Server(asked["most"], asked["capacity"], asked["kind"])
    done = drive(requests, model, 256)
    print(json.dumps({"hits": done.hits, "evicted": model.dropped}))
