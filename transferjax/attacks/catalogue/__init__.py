"""The published attacks, each one combination over `ascend` (see `attacks.builders`).

steps         they differ in how a gradient becomes a step: FGSM, PGD, momentum; and noise, which is none
transformed   they look at transformed images
neighbors     they look around the image: variance tuning, flat maxima
features      they move the features of a layer in the middle, or mix others in
targeted      they are made for reaching a class
transformers  they know of a vision transformer's tokens
committees    they take several surrogates
auto_attack   APGD, FAB, Square, and all of them one after the other
"""
