"""A predict that notes what a running program asks of it."""

from collections import Counter

import jax
import numpy as np


class Watch:
    """A predict that notes on the host what passes it: images on their way in, gradients on either end."""

    def __init__(self):
        self.calls, self.seen, self.images = 0, Counter(), []

    def note(self, place, value):
        """Notes a batch when it is there."""
        jax.debug.callback(lambda v: self.seen.update({place: len(v)}), value)
        return value

    def end(self, place, value):
        @jax.custom_vjp
        def end(value):
            return value

        end.defvjp(lambda v: (v, None), lambda _, ct: (self.note(place, ct),))
        return end(value)

    def __call__(self, predict, x):
        self.calls, call = self.calls + 1, self.calls
        x = self.note((call, "evaluated"), x)
        jax.debug.callback(lambda x: self.images.append(np.asarray(x)), x)
        return self.end((call, "above"), predict(self.end((call, "below"), x)))

    def spent(self, images):
        """Evaluations and gradients, for each of so many images."""
        jax.effects_barrier()
        evaluations = sum(n for (_, place), n in self.seen.items() if place == "evaluated")
        back = [max(self.seen[i, "above"], self.seen[i, "below"]) for i in range(self.calls)]
        return evaluations // images, sum(back) // images
