"""Whether a training may count on numbers of 16 bits."""

from __future__ import annotations

import torch


def is_native() -> bool:
    """Whether matrix products in bfloat16 are at least about as fast as in float32 here.

    A GPU has them, and so has a processor with AVX-512. One without converts every number for every operation and needs ten times as long.
    """
    return torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
