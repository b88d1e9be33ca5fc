"""Vision transformers with a class token and GELU.

Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; names and details as in timm.
"""

import re
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from transferjax.models.layers import Attended, Branch, Layers, Net
from transferjax.typing import Array


def attend(qkv: Array, heads: int) -> Array:
    """`softmax(QKᵀ / √d) V` of each head: `[B, n, 3 C]` -> `[B, n, C]`; within a module that is compact."""
    q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=heads)
    weights = Attended()(jax.nn.softmax(jnp.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5))
    return rearrange(jnp.einsum("bhnm,bhmd->bhnd", weights, v), "b h n d -> b n (h d)")


class Attention(nn.Module):
    """Multi-head self-attention `softmax(QKᵀ / √d) V`."""

    layers: Layers
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        qkv = self.layers.dense(3 * x.shape[-1], "qkv")(x)
        return self.layers.dense(x.shape[-1], "proj")(attend(qkv, self.heads))


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    layers: Layers
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.gelu(self.layers.dense(self.hidden, "fc1")(x), approximate=False)
        return self.layers.dense(x.shape[-1], "fc2")(y)


class Block(nn.Module):
    """Attention and MLP, each on normalized features and with a shortcut."""

    layers: Layers
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        attention = Attention(self.layers, self.heads, name="attn")
        x = x + Branch()(attention(self.layers.layer_norm("norm1")(x)))
        return x + Branch()(MLP(self.layers, self.hidden, name="mlp")(self.layers.layer_norm("norm2")(x)))


def check_positions(net: Net, x: Array) -> None:
    """Images have the size for which a net has learned positions."""
    size = net.image_size
    if x.shape[1:3] != (size, size):
        raise ValueError(
            f"this {type(net).__name__} has learned positions for {size} x {size} images, "
            f"got {x.shape[1]} x {x.shape[2]}; build it with image_size={x.shape[1]}"
        )


def placed(net: Net, x: Array, name: str) -> Array:
    """Features `[B, H, W, C]` plus learned positions, in files `[1, C, H, W]`; within `forward`."""
    shape = (1, x.shape[3], *x.shape[1:3])
    positions = net.param(name, nn.initializers.normal(0.02), shape)
    return x + rearrange(positions, "b c h w -> b h w c").astype(x.dtype)


class ViT(Net):
    """A vision transformer for images of exactly `image_size` (the positions are learned).

    Args:
        image_size: height and width of the images.
        patch: the patches' size.
        depth: the number of blocks.
        width: the features of a token.
        heads: of the attention.
        hidden: the width of the MLPs.
        dropout: on the embedded tokens.
    """

    image_size: int = 224  # type: ignore[misc]  # a field: the positions depend on it
    patch: int = 16
    depth: int = 12
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    dropout: float = 0.0

    stem: ClassVar[str] = "patch_embed.proj"
    head: ClassVar[str] = "head"

    def forward(self, layers: Layers, x: Array) -> Array:
        check_positions(self, x)
        x = layers.conv(self.width, self.patch, self.patch, padding=0, bias=True, name="patch_embed.proj")(x)
        x = rearrange(x, "b h w c -> b (h w) c")
        token = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.width)), x], 1)
        positions = self.param("pos_embed", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        x = layers.dropout(x + positions.astype(x.dtype), self.dropout)
        for i in range(self.depth):
            x = Block(layers, self.heads, self.hidden, name=f"blocks.{i}")(x)
        return layers.dense(self.num_classes, self.head)(layers.layer_norm("norm")(x[:, 0]))

    @classmethod
    def canonical(cls, name: str) -> str | None:
        for pattern, replacement in _TORCHVISION:
            name = re.sub(pattern, replacement, name)
        return name


_TORCHVISION = [
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.linear_(\d)\.", r".mlp.fc\1."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
]
