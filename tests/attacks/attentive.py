"""Any net as one with tokens and an attention, for attacks that ask for them."""

import flax.linen as nn
import jax.numpy as jnp

from transferjax import models
from transferjax.models.layers import Attended


class Rows(nn.Module):
    """An image's pixels as tokens `[B, N, C]`, on a layer of their own."""

    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1, x.shape[-1])


class Attentive(nn.Module):
    """The net, behind tokens that are the pixels, and beside an attention that nothing hangs on."""

    net: nn.Module

    @nn.compact
    def __call__(self, x):
        Attended()(jnp.ones((len(x), 1, 1), x.dtype))
        return self.net(Rows(name="tokens")(x).reshape(x.shape))


def attentive(net, key, images):
    """Its predict."""
    module = Attentive(net)
    return models.predictor(module, module.init(key, images))
