"""SGLang's own RadixCache under our clock; run by an interpreter with sglang and torch, see `oracle.answers`."""

import itertools
import json
import sys
import time
from array import array
from types import SimpleNamespace

import torch
from absent import stand_in
from drive import Request as Ours
from drive import drive

UNUSED = ("kernels", "srt.configs", "srt.mem_cache.memory_pool", "srt.observability.metrics_collector", "srt.server_args", "srt.utils.hf_transformers_patches")  # fmt: skip
stand_in("sglang", ("torch", "numpy"), [f"sglang.{name}" for name in UNUSED])

from sglang.srt.mem_cache import radix_cache  # noqa: E402
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams  # noqa: E402
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey  # noqa: E402

ticks = itertools.count(1)
radix_cache.time = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)


class Allocator:
    """Counts slots; what the tree gives back comes as tensors of slots."""

    device = "cpu"

    def __init__(self, slots, page):
        self.free_slots, self.page = slots, page
        self.evicted = 0

    def free_segment(self, values, start_pos=0):
        self.free_slots += len(values)


class Rows:
    """The table of a request's slots; slots are numbers that nobody looks at."""

    def __init__(self):
        self.req_to_token = {}

    def write(self, place, values):
        row, columns = place
        self.req_to_token.rows[row][columns] = values


class Table:
    def __init__(self):
        self.rows = {}

    def __getitem__(self, place):
        row, columns = place
        return self.rows[row][columns]


class Cache:
    def __init__(self, pages, page, policy):
        self.page = page
        self.allocator = Allocator(pages * page, page)
        rows = Rows()
        rows.req_to_token = Table()
        self.rows = rows
        self.tree = RadixCache(
            CacheInitParams(
                disable=False, req_to_token_pool=rows, token_to_kv_pool_allocator=self.allocator, page_size=page,
                eviction_policy=policy,
            )
        )  # fmt: skip
        self.evicted = 0
        self.running = {}

    def _evict(self, shortfall):
        if shortfall > 0:
            self.evicted += self.tree.evict(EvictParams(num_tokens=shortfall)).num_tokens_evicted

    def admit(self, ours, length):
        tree = self.tree
        salt = str(ours.root)
        tokens = array("q", ours.tokens)
        match = tree.match_prefix(
            MatchPrefixParams(key=RadixKey(tokens, cache_salt=salt, limit=max(length - 1, 0)))
        )
        lock = tree.lock(match.last_device_node)
        hit = match.device_prefix_len
        wanted = -(-length // self.page) * self.page - hit
        if wanted > self.allocator.free_slots + tree.evictable_size():
            tree.unlock(lock)
            return None
        self._evict(wanted - self.allocator.free_slots)
        self.allocator.free_slots -= wanted
        self.rows.req_to_token.rows[ours.number] = torch.zeros(len(tokens) + self.page, dtype=torch.int64)
        kv = SimpleNamespace(
            req_pool_idx=ours.number, cache_inserted_len=0, cache_protected_len=hit, swa_evict_floor=0
        )
        req = SimpleNamespace(
            kv=kv, extra_key=None, cache_salt=salt, priority=0, origin_input_ids=array("q", ours.prompt),
            full_untruncated_fill_ids=tokens, lock=lock, last_node=match.last_device_node, slots=hit + wanted,
        )  # fmt: skip
        self.running[ours.number] = req
        tree.checkpoint(req, up_to=length)
        return hit

    def grow(self, ours, length):
        req = self.running[ours.number]
        more = -(-length // self.page) * self.page - req.slots
        self._evict(more - self.allocator.free_slots)
        if more > self.allocator.free_slots:
            return False
        self.allocator.free_slots -= more
        req.slots += more
        return True

    def release(self, ours, ended):
        req = self.running.pop(ours.number)
        if ended:
            self.tree.checkpoint(req, up_to=ours.final)
        self.allocator.free_slots += req.slots - req.kv.cache_protected_len
        self.tree.unlock(req.lock)


for line in sys.stdin:
    asked = json.loads(line)
    requests = [Ours(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    pages, page = asked["pages"], asked["page"]
    model = Cache(pages, page, asked["policy"])
    done = drive(requests, model, max(16, page), pages * page)
    assert model.tree.total_size() + model.allocator.free_slots == pages * page
    print(
        json.dumps(
            {"hits": done.hits, "waited": done.waited, "preempted": done.preempted, "evicted": model.evicted}
        )
    )
