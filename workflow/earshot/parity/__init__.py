"""The parity ladder: float model, exported program, quantized program, integer graph or host .pte; what each step loses, and where."""
