"""Quantization: which numbers a program is stored in, calibrated on training speech, and the quantized program that comes out."""

import logging

# Notices on import that name nothing a user could change.
for _name in ("torch.utils._pytree", "executorch.backends.arm.quantizer.arm_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
