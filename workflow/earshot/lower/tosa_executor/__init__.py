"""Our own execution of TOSA graphs of integers on PyTorch: bit by bit what TOSA's reference model computes, in a small part of its time.

Every integer is held in a float32 or float64 that holds it exactly, since these are what matrix products are fast in. Before the first
run the range of every tensor is derived from the ranges of its inputs; it decides which of the two is wide enough, and where a result can
leave its type. Only there the values are looked at while the graph runs.

Semantics: TOSA 1.0 specification, https://www.mlplatform.org/tosa/tosa_spec.html.
"""
