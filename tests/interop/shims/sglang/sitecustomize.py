"""Lets SGLang's server start on CPU, for processes that have this folder in PYTHONPATH: those that SGLang spawns have it too.

torchvision's wheel is built for another torch and does not load its operators beside the CPU build, and then fails to import, as
it describes two of them to torch. They are declared here, just before; nothing implements them, and to call one raises.
"""

from __future__ import annotations

import sys

DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Declare:
    """Finds no module: it is asked before torchvision's own descriptions are looked for, when torch is there."""

    library = None

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision._meta_registrations" and cls.library is None:
            import torch

            cls.library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in DECLARED:
                if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
                    cls.library.define(schema)


sys.meta_path.insert(0, Declare)
