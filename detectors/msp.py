"""Maximum softmax probability."""

from dataclasses import dataclass

from oodbench.families import MaxProbability


@dataclass(frozen=True)
class MSP(MaxProbability):
    """Maximum softmax probability of a plain network (Hendrycks & Gimpel, ICLR 2017).

    The score is log((1 − p_max)/p_max), which ranks as the published −p_max without its ties at
    p_max = 1 in float32.
    """
