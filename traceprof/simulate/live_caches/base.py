"""What the live caches share: what they are asked, what they see of a request, and how tokens are compared."""

from __future__ import annotations

import hashlib
from typing import Protocol

TOKEN_BYTES = 8


class Holder(Protocol):
    """What a cache sees of a request."""

    number: int
    root: str
    prompt: int  # tokens
    held: int  # tokens that have KV
    failed: bool  # the cache lost it

    @property
    def final(self) -> int:
        """Tokens that have KV in the end."""

    def sequence(self, length: int) -> bytes:
        """Its first tokens."""


class Cache(Protocol):
    """See the module's docstring."""

    limit: int  # tokens of the largest request that can run

    def admit(self, job: Holder, length: int) -> int | None:
        """Tokens found."""

    def room(self) -> None:
        """Take what was promised."""

    def computed(self, job: Holder, length: int) -> None:
        """Perhaps others can use it now."""

    def grow(self, job: Holder, length: int) -> bool:
        """Room for a longer answer."""

    def release(self, job: Holder, ended: bool) -> None:
        """Give the room back."""

    def flush(self) -> bool:
        """Forget everything."""

    def used(self) -> int:
        """Tokens of memory that running requests hold."""


def common(a: bytes, b: bytes) -> int:
    """Tokens that both begin with.

    >>> common(bytes(40), bytes(30) + b"x" * 10)
    3
    """
    most = min(len(a), len(b)) // TOKEN_BYTES
    low, step = 0, 16
    while low < most:  # leap until they part, then halve
        high = min(low + step, most)
        if a[low * TOKEN_BYTES : high * TOKEN_BYTES] == b[low * TOKEN_BYTES : high * TOKEN_BYTES]:
            low, step = high, 2 * step
            continue
        while high - low > 1:
            middle = (low + high) // 2
            same = a[low * TOKEN_BYTES : middle * TOKEN_BYTES] == b[low * TOKEN_BYTES : middle * TOKEN_BYTES]
            low, high = (middle, high) if same else (low, middle)
        break
    return low


def digest(told: bytes) -> bytes:
    """What stands for a block and all before it."""
    return hashlib.blake2b(told, digest_size=16).digest()
