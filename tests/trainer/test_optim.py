from itertools import pairwise

import pytest
import torch
from torch import nn

from trainer.config import OptimiserConfig
from trainer.optim import adamw, learning_rate, mm1_peak_lr, peak_lr, set_learning_rate


@pytest.mark.parametrize(
    ("parameters", "law", "published"),
    [(2.9e9, 5.92e-5, 6e-5), (6.4e9, 4.24e-5, 4e-5), (30e9, 2.21e-5, 2e-5)],
)
def test_mm1_law_gives_the_published_rates(parameters: float, law: float, published: float) -> None:
    rate = mm1_peak_lr(int(parameters))
    assert rate == pytest.approx(law, rel=0.005)
    assert float(f"{rate:.0e}") == published


def test_mm1_law_at_the_size_of_the_smallest_model_it_was_fitted_on() -> None:
    assert mm1_peak_lr(9_000_000) == pytest.approx(6.75e-4, rel=0.005)
    with pytest.raises(ValueError, match="at least one"):
        mm1_peak_lr(0)


def test_a_configured_peak_goes_before_the_law() -> None:
    assert peak_lr(OptimiserConfig(peak_lr=0.5), 1_000) == 0.5
    assert peak_lr(OptimiserConfig(), 2_900_000_000) == mm1_peak_lr(2_900_000_000)


def test_the_rate_rises_to_the_peak_and_falls_to_a_tenth() -> None:
    config = OptimiserConfig(warmup_steps=4, min_lr_ratio=0.1)
    rates = [learning_rate(step, 25, 1.0, config) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.55)  # half-way down the cosine
    assert rates[24] == pytest.approx(0.1)
    assert all(after < before for before, after in pairwise(rates[4:]))


def test_a_run_shorter_than_its_warm_up_still_has_a_rate() -> None:
    config = OptimiserConfig(warmup_steps=10)
    assert learning_rate(2, 3, 1.0, config) == pytest.approx(0.3)
    assert learning_rate(0, 1, 1.0, OptimiserConfig(warmup_steps=0)) == 1.0


def test_only_matrices_that_train_decay() -> None:
    layer, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    optimiser = adamw([*layer.parameters(), *frozen.parameters()], OptimiserConfig())
    set_learning_rate(optimiser, 0.5)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    # MM1's decay: a step shrinks weights by a tenth of its rate.
    assert layer.weight.flatten().tolist() == pytest.approx([0.95] * 4)
    assert layer.bias.tolist() == [1.0, 1.0]
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 2
