"""SGLang's own prefix cache under our clock; run by an interpreter with sglang and torch, see `oracle.answers`.

"tree" chooses it: "rust" is UnifiedRadixCache as a server makes it, "python" the same with its core in Python, "radix" the
RadixCache of the releases before. Lookup, room, insertion and release go through SGLang's own functions and allocators,
with real slots: whatever is freed twice or not at all shows in the counts at the end.
"""

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
from prefills import Prefills

UNUSED = (
    "kernels", "srt.configs", "srt.distributed", "srt.layers", "srt.managers.cache_controller", "srt.managers.schedule_batch",
    "srt.mem_cache.buffer_mode", "srt.mem_cache.hybrid_cache", "srt.mem_cache.memory_pool", "srt.mem_cache.swa_memory_pool",
    "srt.observability.metrics_collector", "srt.server_args", "srt.utils.hf_transformers_patches",
)  # fmt: skip
stand_in("sglang", ("torch", "numpy", "msgspec"), [f"sglang.{name}" for name in UNUSED])

from sglang.srt.mem_cache import radix_cache  # noqa: E402
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator  # noqa: E402
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.common import evict_from_tree_cache, match_kv_cache  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixCache  # noqa: E402
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType  # noqa: E402
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache  # noqa: E402

ticks = itertools.count(1)
radix_cache.time = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)


class Rows:
    """The table of the requests' slots: a row is as long as its request."""

    def __init__(self):
        self.rows = {}
        self.req_to_token = self

    def __getitem__(self, place):
        row, columns = place
        return self.rows[row][columns]

    def write(self, place, values):
        row, columns = place
        self.rows[row][columns] = values


class Cache:
    def __init__(self, pages, page, policy, tree, priority):
        self.page, self.total = page, pages * page
        self.priority = priority
        kind = (torch.bfloat16, "cpu", None, False)
        self.allocator = (
            TokenToKVPoolAllocator(self.total, *kind)
            if page == 1
            else PagedTokenToKVPoolAllocator(self.total, page, *kind)
        )
        self.rows = Rows()
        made = RadixCache if tree == "radix" else UnifiedRadixCache
        self.tree = made(
            CacheInitParams(
                disable=False, req_to_token_pool=self.rows, token_to_kv_pool_allocator=self.allocator, page_size=page,
                eviction_policy=policy, tree_components=(ComponentType.FULL,), tree_core_backend=tree,
            )
        )  # fmt: skip
        if tree == "rust":
            assert type(self.tree.tree_core).__name__ == "RustUnifiedTreeCore"
        self.evicted = 0
        self.tree.update_eviction_metrics = self._evicted
        self.running = {}
        self.promised = []  # (request, tokens) that were admitted and have no room yet

    def _evicted(self, tokens, start):
        self.evicted += tokens

    def _take(self, tokens):
        """Slots for so many tokens of whole pages, or None."""
        evict_from_tree_cache(self.tree, tokens)
        return self.allocator.alloc(tokens) if self.allocator.available_size() >= tokens else None

    def _whole(self, length):
        return -(-length // self.page) * self.page

    def admit(self, ours, length):
        tokens = array("q", ours.tokens)
        kv = SimpleNamespace(
            req_pool_idx=ours.number, cache_inserted_len=0, cache_protected_len=0, swa_evict_floor=0
        )
        req = SimpleNamespace(
            kv=kv, rid=str(ours.number), extra_key=None, cache_salt=str(ours.root), priority=self.priority[ours.number], session=None,
            session_id=None, kv_rotation_base=None, origin_input_ids=array("q", ours.prompt), prefix_len=0, lock=None,
            full_untruncated_fill_ids=tokens, finished=lambda: False, _compute_max_prefix_len=lambda n: n - 1,
        )  # fmt: skip
        match_kv_cache(req, self.tree, tokens, max_prefix_len=max(length - 1, 0))
        hit = kv.cache_protected_len = req.prefix_len
        req.lock = self.tree.lock(req.last_node)
        wanted = self._whole(length) - hit
        promised = sum(tokens for _, tokens in self.promised)
        if wanted > self.allocator.available_size() - promised + self.tree.evictable_size():
            self.tree.unlock(req.lock)
            return None
        row = torch.zeros(self._whole(len(tokens)) + self.page, dtype=torch.int64)
        row[:hit] = self.tree.path_device_indices(req.last_node)
        self.rows.rows[ours.number] = row
        req.slots = hit
        self.promised.append((req, wanted))
        self.running[ours.number] = req
        return hit

    def room(self):
        """What a batch was promised, all at once."""
        if self.promised:
            found = self._take(sum(tokens for _, tokens in self.promised))
            for req, tokens in self.promised:
                self.rows.rows[req.kv.req_pool_idx][req.slots : req.slots + tokens] = found[:tokens]
                found = found[tokens:]
                req.slots += tokens
            self.promised = []

    def computed(self, ours, length):
        self.tree.checkpoint(self.running[ours.number], up_to=length)

    def grow(self, ours, length):
        req = self.running[ours.number]
        wanted = self._whole(length)
        if wanted > req.slots:
            found = self._take(wanted - req.slots)
            if found is None:
                return False
            self.rows.rows[ours.number][req.slots : wanted] = found
            req.slots = wanted
        return True

    def release(self, ours, ended):
        req = self.running.pop(ours.number)
        if ended:
            req.finished = lambda: True
            self.tree.checkpoint(req, up_to=ours.final)
        kept = req.kv.cache_protected_len
        self.allocator.free_segment(self.rows.rows.pop(ours.number)[kept : req.slots], start_pos=kept)
        self.tree.unlock(req.lock)

    def check(self):
        """Every slot is either free or in the tree, once."""
        size = self.tree.total_size()
        size = size[0] if isinstance(size, tuple) else size
        assert size + self.allocator.available_size() == self.total
        if size:
            pages = torch.unique(self.tree.all_values_flatten() // self.page)
            free = torch.cat((self.allocator.get_all_free_pages(), pages))
            assert len(torch.unique(free)) == self.total // self.page


for line in sys.stdin:
    asked = json.loads(line)
    requests = [Ours(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    pages, page = asked["pages"], asked["page"]
    priority = asked.get("priority") or [0] * len(requests)
    model = Cache(pages, page, asked["policy"], asked["tree"], priority)
    driven = Prefills(model, asked["prefill"], page, asked["chunk"] // page * page)
    done = drive(requests, driven, max(asked["quantum"], page), pages * page)
    model.check()
    print(
        json.dumps(
            {"hits": done.hits, "waited": done.waited, "preempted": done.preempted, "evicted": model.evicted}
        )
    )
