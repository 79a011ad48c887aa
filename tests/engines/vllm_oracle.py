"""vLLM's own KVCacheManager under our clock; run by vLLM's interpreter, see `oracle.answers`."""

import json
import os
import sys

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from drive import Request as Ours
from drive import drive
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request


class Manager:
    def __init__(self, total, block):
        spec = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=1, dtype=torch.float32)
        config = KVCacheConfig(
            num_blocks=total, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self.manager = KVCacheManager(
            config,
            max_model_len=1 << 20,
            scheduler_block_size=block,
            hash_block_size=block,
            enable_kv_cache_events=True,
        )
        self.hasher = get_request_block_hasher(block, sha256)
        self.requests = {}
        self.evicted = 0

    def _events(self):
        for event in self.manager.take_events():
            if type(event).__name__ == "BlockRemoved":
                self.evicted += len(event.block_hashes)

    def admit(self, ours, length):
        request = self.requests.get(ours.number)
        if request is None:
            request = Request(
                str(ours.number), list(ours.prompt), SamplingParams(max_tokens=1 << 19), None,
                cache_salt=str(ours.root), block_hasher=self.hasher,
            )  # fmt: skip
            self.requests[ours.number] = request
        request.num_computed_tokens = 0
        assert request.num_tokens == length
        blocks, hit, _ = self.manager.get_computed_blocks(request)
        got = self.manager.allocate_slots(request, length - hit, hit, blocks, full_sequence_must_fit=True)
        self._events()
        if got is None:
            return None
        request.num_computed_tokens = length
        return hit

    def grow(self, ours, length):
        request = self.requests[ours.number]
        known = request.num_tokens
        if known < length:
            request.append_output_token_ids(list(ours.tokens[known:length]))
        got = self.manager.allocate_slots(request, length - request.num_computed_tokens)
        self._events()
        if got is None:
            # what was sampled is kept, but it is not what will be looked up again: our clock resumes at the old length
            self._cut(request, known)
            return False
        request.num_computed_tokens = length
        return True

    def _cut(self, request, length):
        extra = request.num_tokens - length
        if extra:
            del request._output_token_ids[-extra:]
            del request._all_token_ids[-extra:]
            del request.block_hashes[length // self.manager.coordinator.block_pool.hash_block_size :]

    def release(self, ours, ended):
        self.manager.free(self.requests[ours.number])
        if ended:
            del self.requests[ours.number]


init_none_hash(sha256)
for line in sys.stdin:
    asked = json.loads(line)
    requests = [Ours(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    model = Manager(asked["total"], asked["block"])
    done = drive(requests, model, asked["block"], (asked["total"] - 1) * asked["block"])
    print(
        json.dumps(
            {"hits": done.hits, "waited": done.waited, "preempted": done.preempted, "evicted": model.evicted}
        )
    )
