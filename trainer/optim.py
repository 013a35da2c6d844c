"""The learning-rate law, the schedule and AdamW's groups: pure functions of sizes and steps."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer.config import OptimiserConfig


def mm1_peak_lr(non_embedding_params: int) -> float:
    """The peak learning rate for a decoder of `non_embedding_params` parameters.

    exp(-0.4214 ln N - 0.5535): McKinzie et al. 2024, MM1 (arXiv 2403.09611), section 3.4, a
    log-linear fit through the best rates of 9M to 1.2B models. MM1 rounds it down to 6e-5, 4e-5
    and 2e-5 for 2.9B, 6.4B and 30B.

    Raises:
        ValueError: `non_embedding_params` is not positive.
    """
    if non_embedding_params < 1:
        raise ValueError(f"{non_embedding_params} parameters: the law needs at least one")
    return math.exp(-0.4214 * math.log(non_embedding_params) - 0.5535)


def peak_lr(config: OptimiserConfig, non_embedding_params: int) -> float:
    """The configured peak, or MM1's for this size."""
    return mm1_peak_lr(non_embedding_params) if config.peak_lr == "mm1" else config.peak_lr


def learning_rate(step: int, steps: int, peak: float, config: OptimiserConfig) -> float:
    """The rate of update `step` (from 0) of `steps`.

    Linear warm-up to `peak`, then a cosine to `min_lr_ratio` of it at the last step. MM1 warms up
    for 2,000 of 200,000 steps and decays to 10 % (arXiv 2403.09611, appendix B).
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    span = max(1, steps - 1 - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / span))) / 2
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


def adamw(parameters: Iterable[nn.Parameter], config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that train; norms and biases (one dimension) do not decay.

    MM1's weight decay is 0.1 x the peak rate in a form whose decay does not depend on the rate
    (section 3.4). torch multiplies the two, so the same shrinkage is `weight_decay=0.1` here, and
    it follows the schedule. The rate itself is set before every step.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, the same in every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
