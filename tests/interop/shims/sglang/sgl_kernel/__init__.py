"""A stand-in for SGLang's kernels, whose build for CPU has no wheel: every name is there, and a kernel that is called raises."""

from __future__ import annotations

__version__ = "0.4.10"  # what SGLang 0.5.23 pins


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} was called, and there are no kernels here")

    return absent
