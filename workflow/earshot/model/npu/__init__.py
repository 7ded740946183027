"""The NPU form: an exact compiler from a trained Conformer to the operators and layouts that an Ethos-U runs in fewest cycles."""

from earshot.model.npu.network import to_npu

__all__ = ["to_npu"]
