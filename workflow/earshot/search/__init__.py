"""The search for a mixed-precision scheme: candidates compared in PyTorch, some built as ordinary variants, the best of these picked."""
