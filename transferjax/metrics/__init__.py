"""What the transferability literature measures: success, similarity, curvature, flatness, shift.

`metrics.regression` (correlations and least squares over tidy results) is imported on its own: it needs
pandas and statsmodels, the rest only JAX and Flax.
"""

from transferjax.metrics.attention import activations, grad_cam, layers
from transferjax.metrics.bootstrap import Interval, bootstrap_interval
from transferjax.metrics.bound import (
    Bound,
    TransferLossBound,
    jacobian_norm,
    transfer_loss_bound,
    transferability_bound,
)
from transferjax.metrics.curvature import input_hessian_eigenvalues, input_hessian_trace
from transferjax.metrics.distortion import l2_distance, ssim
from transferjax.metrics.flatness import (
    expected_gradient_norm,
    gradient_norm,
    loss_surface,
    random_directions,
)
from transferjax.metrics.gradients import input_gradient
from transferjax.metrics.perceptual import Lpips, lpips, read_lpips
from transferjax.metrics.sharpness import average_sharpness, worst_case_sharpness
from transferjax.metrics.shift import (
    frechet_distance,
    local_intrinsic_dimension,
    off_subspace,
    principal_subspace,
)
from transferjax.metrics.similarity import cosine_similarity, gradient_similarity, similarity_matrix
from transferjax.metrics.spectrum import (
    spectral_density,
    spectral_measure,
    top_eigenvalues,
    trace,
    trace_plus_plus,
    xtrace,
)
from transferjax.metrics.transfer import (
    correct,
    fooled,
    round_to_8_bits,
    transfer_success,
    transferability,
)
from transferjax.metrics.weights import weight_matvec, weight_trace
from transferjax.proportions import proportion_interval

__all__ = [
    "Bound",
    "Interval",
    "Lpips",
    "TransferLossBound",
    "activations",
    "average_sharpness",
    "bootstrap_interval",
    "correct",
    "cosine_similarity",
    "expected_gradient_norm",
    "fooled",
    "frechet_distance",
    "grad_cam",
    "gradient_norm",
    "gradient_similarity",
    "input_gradient",
    "input_hessian_eigenvalues",
    "input_hessian_trace",
    "jacobian_norm",
    "l2_distance",
    "layers",
    "local_intrinsic_dimension",
    "loss_surface",
    "lpips",
    "off_subspace",
    "principal_subspace",
    "proportion_interval",
    "random_directions",
    "read_lpips",
    "round_to_8_bits",
    "similarity_matrix",
    "spectral_density",
    "spectral_measure",
    "ssim",
    "top_eigenvalues",
    "trace",
    "trace_plus_plus",
    "transfer_loss_bound",
    "transfer_success",
    "transferability",
    "transferability_bound",
    "weight_matvec",
    "weight_trace",
    "worst_case_sharpness",
    "xtrace",
]
