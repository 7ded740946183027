"""Quantization: which numbers a program is stored in, calibrated on training speech, and the quantized program that comes out."""
