"""Scores that do not saturate: log-odds in place of probabilities.

Each is a strictly increasing map of the probability that it stands for, so every metric that
depends on order alone is the same, but float32 gives neither ties at 1 nor vanishing gradients.
Shapes: logits [N, C], results [N], differentiable in the logits.
"""

import math

import torch
from torch import Tensor


def log_odds_against(logits: Tensor, target: Tensor) -> Tensor:
    """Return log((1 − p_t)/p_t) for the class ``target`` [N] (int64) of each row."""
    chosen = logits.gather(1, target[:, None])
    others = logits.scatter(1, target[:, None], -math.inf)
    return others.logsumexp(1) - chosen[:, 0]


def max_probability(logits: Tensor) -> Tensor:
    """Return log((1 − p_max)/p_max), which ranks as −max p (Hendrycks & Gimpel, 2017)."""
    return log_odds_against(logits, logits.argmax(1))


def tempered_max_probability(logits: Tensor, temperature: float) -> Tensor:
    """Return T·log((K−1)⁻¹ (1 − p_max)/p_max) at softmax(z/T), K the number of columns.

    A large T makes all probabilities nearly equal, where log1p keeps what a logarithm would
    lose; a small one makes p_max nearly 1, where it is the other way round.
    """
    others = logits.shape[1] - 1
    gaps = (logits - logits.amax(1, keepdim=True)) / temperature
    mean = gaps.expm1().sum(1) / others
    flat = mean.clamp(min=-0.5).log1p()
    peaked = max_probability(gaps) - math.log(others)
    return temperature * torch.where(mean > -0.5, flat, peaked)


def reject_class(logits: Tensor, classes: int) -> Tensor:
    """Return log(p_reject/(1 − p_reject)), the reject outputs being those from ``classes`` on."""
    return logits[:, classes:].logsumexp(1) - logits[:, :classes].logsumexp(1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the free energy −T·lse(z/T) (Liu et al., NeurIPS 2020, eq. 4)."""
    return -temperature * (logits / temperature).logsumexp(1)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """Return the cross entropy to the uniform distribution up to log K: lse(z) − mean(z)."""
    return logits.logsumexp(1) - logits.mean(1)


def negative_max_softmax(logits: Tensor) -> Tensor:
    """Return −max p in float32 as published, which saturates at −1."""
    return -torch.softmax(logits, 1).amax(1)
