"""Weights: files in all `formats`, `pickles`, `names`, and PyTorch tensors for Flax (`torch`).

`python -m transferjax.models.weights.convert` turns one file into another.
"""
