"""Nets in Flax Linen, as functions of images in [0, 1]."""

from transferjax.models.layers import Net
from transferjax.models.linearity import is_piecewise_linear, is_piecewise_multilinear
from transferjax.models.predict import predictor, select_classes, train_apply
from transferjax.models.weights.formats import load, read_tensors, save
from transferjax.models.weights.torch import abstract_variables, to_torch
from transferjax.models.zoo import ZOO, build, build_for, from_torch, pretrained, replace_head

__all__ = [
    "ZOO",
    "Net",
    "abstract_variables",
    "build",
    "build_for",
    "from_torch",
    "is_piecewise_linear",
    "is_piecewise_multilinear",
    "load",
    "predictor",
    "pretrained",
    "read_tensors",
    "replace_head",
    "save",
    "select_classes",
    "to_torch",
    "train_apply",
]
