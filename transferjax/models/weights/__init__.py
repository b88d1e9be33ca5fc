"""Weights: what files hold, by whatever name (`formats`, `pickles`, `names`), and PyTorch's for Flax (`torch`).

`python -m transferjax.models.weights.convert` turns one file into another.
"""
