"""vLLM's own KVCacheManager under our clock; run by vLLM's interpreter, see `oracle.answers`.

A task with "scheduler" runs through vLLM's own scheduler instead, which has a clock of its own: steps.
OLDER may name a folder with another release's package, which is then run beside the same torch.
"""

import inspect
import json
import os
import sys

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from absent import Absent
from drive import Request as Ours
from drive import drive

if older := os.environ.get("OLDER"):
    sys.path.insert(0, older)
    sys.meta_path.append(Absent(lambda name: name.split(".")[0] == "gguf"))

import vllm
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
        options = {"max_model_len": 1 << 20, "hash_block_size": block, "enable_kv_cache_events": True}
        if "scheduler_block_size" in inspect.signature(KVCacheManager).parameters:
            options["scheduler_block_size"] = block
        self.manager = KVCacheManager(config, **options)
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
        blocks, hit, *_ = self.manager.get_computed_blocks(request)
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


class Steps:
    """vLLM's scheduler as it is by default: a step is scheduled before the tokens of the one before it are known.

    Times of requests count steps; what a request answers is in the log, so no model runs.
    """

    def __init__(self, total, block):
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.structured_output import StructuredOutputManager

        longest = 8192
        config = VllmConfig(
            model_config=ModelConfig(os.environ["MODEL"], dtype="float32", skip_tokenizer_init=True),
            cache_config=CacheConfig(block_size=block),
            scheduler_config=SchedulerConfig(
                max_num_seqs=256, max_num_batched_tokens=longest, max_model_len=longest, is_encoder_decoder=False,
                async_scheduling=True,
            ),
            device_config=DeviceConfig("cpu"),
        )  # fmt: skip
        config.cache_config.num_gpu_blocks = total
        spec = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=1, dtype=torch.float32)
        blocks = KVCacheConfig(
            num_blocks=total, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self.scheduler = AsyncScheduler(
            config, blocks, StructuredOutputManager(config), block_size=block, hash_block_size=block
        )
        self.hasher = get_request_block_hasher(block, sha256)
        self.most = (total - 1) * block
        self.ours, self.theirs = {}, {}

    def _add(self, ours):
        name = str(ours.number)
        sampling = SamplingParams(max_tokens=len(ours.output), ignore_eos=True)
        request = Request(
            name, list(ours.prompt), sampling, None, cache_salt=str(ours.root), block_hasher=self.hasher
        )
        self.ours[name], self.theirs[name] = ours, request
        self.scheduler.add_request(request)

    def _sampled(self, name):
        """The next token of the log; behind its end, where a step was scheduled for nothing, any."""
        tokens, known = self.ours[name].tokens, self.theirs[name].num_tokens
        return [tokens[known] if known < len(tokens) else 0]

    def run(self, requests):
        from vllm.v1.outputs import ModelRunnerOutput

        waiting = [r for r in requests if r.final <= self.most]
        hits, admitted = [-1] * len(requests), {}
        now, pending = 0, None
        while waiting or pending or self.scheduler.has_unfinished_requests():
            if waiting and not pending and not self.scheduler.has_unfinished_requests():
                now = max(now, waiting[0].arrival)
            while waiting and waiting[0].arrival <= now:
                self._add(waiting.pop(0))
            step = self.scheduler.schedule()
            for new in step.scheduled_new_reqs:
                hits[int(new.req_id)] = new.num_computed_tokens
                admitted[new.req_id] = now
            if pending:
                names = list(pending.num_scheduled_tokens)
                places = {name: i for i, name in enumerate(names)}
                sampled = [self._sampled(name) for name in names]
                self.scheduler.update_from_output(pending, ModelRunnerOutput(names, places, sampled))
            pending = step if step.num_scheduled_tokens else None
            now += 1
        return {
            "hits": hits,
            "waited": sum(at > self.ours[name].arrival for name, at in admitted.items()),
            "preempted": sum(request.num_preemptions for request in self.theirs.values()),
        }


def said(asked):
    requests = [Ours(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    total, block = asked["total"], asked["block"]
    if asked.get("scheduler"):
        return Steps(total, block).run(requests)
    model = Manager(total, block)
    done = drive(requests, model, block, (total - 1) * block)
    return {"hits": done.hits, "waited": done.waited, "preempted": done.preempted, "evicted": model.evicted}


init_none_hash(sha256)
for line in sys.stdin:
    print(json.dumps(said(json.loads(line)) | {"release": vllm.__version__}))
