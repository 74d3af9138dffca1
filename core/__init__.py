"""Gradients: arrays, tensors, primitives, layers, optimizers and the arena.

The room computes on one device and knows nothing of other ranks: it never opens a socket, never
reads a file and never asks for a rank. Start reading at `tensor.py` (a tensor and its backward
pass), then `ops/` (each primitive beside its gradient), then `arena.py` (one buffer for all
parameters, one for all gradients).
"""
