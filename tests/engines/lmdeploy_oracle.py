"""LMDeploy's own scheduler, block trie and block manager under our clock; run by an interpreter with lmdeploy and torch, see `oracle.answers`."""

import itertools
import json
import sys
from types import SimpleNamespace

from absent import stand_in
from drive import Request as Ours
from drive import drive

UNUSED = ("serve", "pipeline", "vl.media", "vl.utils")
stand_in("lmdeploy", ("torch", "numpy", "pydantic"), [f"lmdeploy.{name}" for name in UNUSED])

from lmdeploy.pytorch.config import CacheConfig, SchedulerConfig  # noqa: E402
from lmdeploy.pytorch.messages import SequenceMeta, UpdateTokenMode  # noqa: E402
from lmdeploy.pytorch.paging.block_manager import base_block_manager  # noqa: E402
from lmdeploy.pytorch.paging.prefill_scheduler import _PrefillTurnPolicy  # noqa: E402
from lmdeploy.pytorch.paging.scheduler import Scheduler  # noqa: E402
from lmdeploy.pytorch.strategies.ar.sequence import ARSequenceStrategy  # noqa: E402

# LMDeploy keeps times of access in whole seconds, which would leave the order to chance
ticks = itertools.count(1)
base_block_manager.time = SimpleNamespace(perf_counter=lambda: next(ticks))

PREFILL = _PrefillTurnPolicy.from_flags(True, False)


class Cache:
    """A request is a session of one sequence, made anew when it is admitted again."""

    def __init__(self, blocks, block, ahead):
        self.ahead = ahead
        cache = CacheConfig(
            max_batches=1 << 30, block_size=block, num_cpu_blocks=0, num_gpu_blocks=blocks, num_reserved_gpu_blocks=1,
            enable_prefix_caching=True, max_prefill_token_num=1 << 30,
        )  # fmt: skip
        self.scheduler = Scheduler(
            SchedulerConfig(max_batches=1 << 30, max_session_len=1 << 30, prefill_interval=ahead),
            cache,
            SequenceMeta(block, strategy=ARSequenceStrategy()),
        )
        self.running = {}
        self.evicted = 0
        trie = self.scheduler.block_trie
        own = trie.evict

        def counted(most):
            gone = own(most)
            self.evicted += gone
            return gone

        trie.evict = counted

    def admit(self, ours, length):
        s = self.scheduler
        session = s.add_session(ours.number)
        seq = session.add_sequence(list(ours.tokens[:length]), adapter_name=str(ours.root))
        admitted = s._prefill_scheduler.schedule(
            waiting=[seq], stopped=[], num_ready=0, num_running=len(self.running), turn_policy=PREFILL, prealloc_size=self.ahead,
        )  # fmt: skip
        if not admitted:
            s.end_session(ours.number)
            return None
        hit = seq.cached_tokens
        seq.state.activate()
        self._sampled(seq, ours, UpdateTokenMode.PREFILL)
        self.running[ours.number] = seq
        return hit

    def _sampled(self, seq, ours, mode):
        token = ours.tokens[seq.num_all_ids] if seq.num_all_ids < len(ours.tokens) else 0
        seq.update_token_ids([token], mode=mode)

    def grow(self, ours, length):
        """Token by token, as Scheduler.schedule_running does it for one sequence."""
        s, seq = self.scheduler, self.running[ours.number]
        while seq.num_all_ids <= length:  # the token sampled last has no KV yet
            if s.block_manager.num_required_blocks(seq, 1) > 0:
                if not s.eviction_helper.try_make_capacity_for(seq, [], self.ahead):
                    return False
                s.block_manager.allocate(seq, self.ahead)
                s.block_trie.allocate(seq)
            self._sampled(seq, ours, UpdateTokenMode.DECODE)
        return True

    def release(self, ours, ended):
        self.running.pop(ours.number)
        self.scheduler.end_session(ours.number)


for line in sys.stdin:
    asked = json.loads(line)
    requests = [Ours(r[0], tuple(r[1]), tuple(r[2]), *r[3:]) for r in asked["requests"]]
    blocks, block, ahead = asked["blocks"], asked["block"], asked["ahead"]
    model = Cache(blocks, block, ahead)
    done = drive(requests, model, block, (blocks - 1) * block - ahead)
    cached = len(model.scheduler.block_trie.leaves) > 0
    assert cached or model.scheduler.block_manager.get_num_free_gpu_blocks() == blocks - 1
    print(
        json.dumps(
            {"hits": done.hits, "waited": done.waited, "preempted": done.preempted, "evicted": model.evicted}
        )
    )
