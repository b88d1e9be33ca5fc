"""How far is augmented or adversarial data from clean data? Distances between sets of feature vectors.

Features are `[n, D]`: activations of a model (see `attention.activations`), or flattened images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transferjax.norms import norm
from transferjax.typing import Array


def _check(features: Array, size: int | None = None) -> None:
    if features.ndim != 2 or size not in (None, features.shape[1]):
        raise ValueError(
            f"features must be [n, {size or 'D'}]; got {features.shape}: flatten images and maps first, "
            "x.reshape(len(x), -1)"
        )


def frechet_distance(features_a: Array, features_b: Array) -> Array:
    """Squared Fréchet distance of the Gaussians that fit two sets of features, a scalar.

    `‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a^½ Σ_b Σ_a^½)^½)`; 0 for equal means and covariances. With fewer
    examples than features the covariances are singular and the distance is biased up: compare only sets of
    equal size.

    Reference: Dowson and Landau, 1982; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS
    2017. S&P 2024's Hypothesis 1 speaks of a shift of the distribution, without a measure.
    """
    _check(features_a)
    if features_a.shape[1:] != features_b.shape[1:]:
        raise ValueError(f"features must be [n, D] of one D; got {features_a.shape} and {features_b.shape}")
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError(
            f"a covariance needs at least 2 examples; got {len(features_a)} and {len(features_b)}"
        )
    means = [features.mean(0) for features in (features_a, features_b)]
    factors = [  # Σ = FᵀF: roots of the products follow from singular values, which is kinder to precision
        (features - mean) / jnp.sqrt(len(features) - 1)
        for features, mean in zip((features_a, features_b), means, strict=True)
    ]
    cross = jnp.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    variances = (factors[0] ** 2).sum() + (factors[1] ** 2).sum()
    return ((means[0] - means[1]) ** 2).sum() + jnp.maximum(variances - 2 * cross, 0)


def local_intrinsic_dimension(features: Array, reference: Array, neighbors: int = 20) -> Array:
    """Maximum-likelihood local intrinsic dimension of each feature vector in a reference set, `[n]`.

    `LID(x) = -[(1/N) Σ_i log(r_i(x) / r_N(x))]⁻¹` with the distances r to the N nearest reference points;
    adversarial examples tend to have a larger one. Points at distance zero (x itself) are left out.

    Args:
        features: `[n, D]`.
        reference: `[m, D]`, more than `neighbors` of them.
        neighbors: N.

    Reference: Amsaleg et al., KDD 2015; Ma et al., "Characterizing Adversarial Subspaces", ICLR 2018.
    """
    _check(reference)
    _check(features, reference.shape[1])
    if not 2 <= neighbors < len(reference):
        raise ValueError(f"neighbors must be from 2 to {len(reference) - 1}; got {neighbors}")

    def one(x: Array) -> Array:
        distances = norm(reference - x, -1)
        distances = jnp.where(distances > 0, distances, jnp.inf)
        nearest = -jax.lax.top_k(-distances, neighbors)[0]
        return -1 / jnp.log(nearest / nearest[-1]).mean()

    return jax.lax.map(one, features)


class Subspace(NamedTuple):
    """Mean `[D]` and orthonormal directions `[rank, D]` of the largest variance."""

    mean: Array
    directions: Array


def principal_subspace(features: Array, rank: int) -> Subspace:
    """The affine subspace that holds most of the features' variance: a linear data manifold."""
    _check(features)
    if not 1 <= rank <= min(features.shape):
        raise ValueError(f"rank must be from 1 to {min(features.shape)}; got {rank}")
    mean = features.mean(0)
    return Subspace(mean, jnp.linalg.svd(features - mean, full_matrices=False)[2][:rank])


def off_subspace(features: Array, subspace: Subspace) -> Array:
    """Distance of each feature vector from the subspace, `‖(I - PᵀP)(x - μ)‖₂`, `[n]`."""
    _check(features, subspace.mean.shape[0])
    centered = features - subspace.mean
    return norm(centered - (centered @ subspace.directions.T) @ subspace.directions, -1)
