"""How sure a count is: intervals of proportions."""

import math
from statistics import NormalDist


def proportion_interval(successes: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion `p̂ = successes / count`; (0, 1) where nothing was counted.

    `(p̂ + z²/2n ± z √(p̂(1-p̂)/n + z²/4n²)) / (1 + z²/n)`, z the normal quantile at `(1 + level)/2`.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"successes must lie in 0 … count; got {successes} of {count}")
    if count == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / count
    centre, half = (
        share + z * z / (2 * count),
        z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2),
    )
    return max(0.0, (centre - half) / (1 + z * z / count)), min(1.0, (centre + half) / (1 + z * z / count))
