"""The network: reads top to bottom like the paper."""

from earshot.model.conformer import Conformer

__all__ = ["Conformer"]
