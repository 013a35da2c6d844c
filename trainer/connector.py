# ruff: noqa: N803, N806 - tensors carry their shapes as suffixes
"""From the image encoder's patches to the decoder's image tokens.

MM1 (McKinzie et al. 2024, arXiv 2403.09611, section 3.2) finds that the number of tokens and the
resolution matter, and the type of connector hardly does.

Shape suffixes: N images, C encoder width, X and Y patches across and down, Q tokens an image,
D decoder width.
"""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.config import ConnectorConfig
from trainer.decoder import INIT_STD


def make_connector(
    config: ConnectorConfig, encoder_width: int, image_tokens: int, width: int
) -> "AverageConnector":
    """The configured connector.

    Raises:
        ValueError: `image_tokens` is not a square.
    """
    match config.kind:
        case "average":
            return AverageConnector(encoder_width, image_tokens, width)


class AverageConnector(nn.Module):
    """Normalised patches, averaged over a square grid, then one linear layer.

    The pooling is adaptive because grids rarely divide: 27 x 27 patches (378 pixels, ViT-H/14)
    to 12 x 12 tokens. Patches are normalised first because the last layer of some encoders has
    a few values thousands of times larger than the rest, which an average would spread.
    """

    def __init__(self, encoder_width: int, image_tokens: int, width: int) -> None:
        super().__init__()
        self.side = math.isqrt(image_tokens)
        if self.side**2 != image_tokens:
            raise ValueError(f"{image_tokens} tokens an image are not a square")
        self.norm = nn.LayerNorm(encoder_width)
        self.linear = nn.Linear(encoder_width, width)

    def forward(self, features_NCYX: Tensor) -> Tensor:
        """Features [N, C, Y, X] to image tokens [N, Q, D]."""
        patches_NCYX = self.norm(features_NCYX.movedim(1, -1)).movedim(-1, 1)
        grid = functional.adaptive_avg_pool2d(patches_NCYX, self.side)
        tokens_NQD: Tensor = self.linear(grid.flatten(2).transpose(1, 2))
        return tokens_NQD

    def init_weights(self) -> None:
        """Image tokens start as large as token embeddings, so that neither drowns the other."""
        self.norm.reset_parameters()
        nn.init.normal_(self.linear.weight, std=INIT_STD / self.linear.in_features**0.5)
        nn.init.zeros_(self.linear.bias)
