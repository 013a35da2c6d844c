import pytest
import torch
from torch.nn import functional

from trainer.config import ConnectorConfig
from trainer.connector import AverageConnector, make_connector


def test_each_token_is_the_average_of_its_square_of_patches() -> None:
    connector = AverageConnector(encoder_width=3, image_tokens=4, width=5)
    connector.init_weights()
    features = torch.randn(2, 3, 6, 6)
    out = connector(features)
    corner = functional.layer_norm(features[1, :, 3:, :3].flatten(1).T, (3,)).mean(dim=0)
    assert out.shape == (2, 4, 5)
    # Tokens go row by row: the third of four is the lower left.
    assert torch.allclose(out[1, 2], connector.linear(corner), atol=1e-5)


def test_grids_that_do_not_divide_are_pooled_too() -> None:
    connector = make_connector(ConnectorConfig(), encoder_width=8, image_tokens=144, width=4)
    assert connector(torch.randn(1, 8, 27, 27)).shape == (1, 144, 4)
    assert connector(torch.randn(1, 8, 7, 7)).shape == (1, 144, 4)


def test_image_tokens_start_as_large_as_token_embeddings() -> None:
    torch.manual_seed(0)
    connector = AverageConnector(encoder_width=256, image_tokens=64, width=64)
    connector.init_weights()
    tokens = connector(torch.randn(4, 256, 8, 8) * 1_000)
    assert tokens.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_number_of_tokens_that_is_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="12 tokens an image are not a square"):
        AverageConnector(encoder_width=8, image_tokens=12, width=4)
