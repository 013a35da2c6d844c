# ruff: noqa: N803, N806 - tensors carry their shapes as suffixes
"""The reference model: image encoder, connector and decoder, as in MM1.

Images become tokens of the decoder's own stream (McKinzie et al. 2024, arXiv 2403.09611,
section 3): every <image> token's embedding is replaced by an output of the connector, in order.

Shape suffixes as in `trainer.data`, `trainer.connector` and `trainer.decoder`.
"""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from filters.clip import BUNDLED, load_clip
from trainer.config import EncoderConfig, TrainConfig
from trainer.connector import AverageConnector, make_connector
from trainer.data import IGNORE, Batch
from trainer.decoder import Decoder


class ImageEncoder(nn.Module):
    """The image tower of an open_clip model, as a map of features [N, C, Y, X].

    `forward_intermediates` gives that map for open_clip's ViTs, its ResNets and timm's towers.
    """

    def __init__(self, tower: Any, frozen: bool) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(not frozen)
        self.frozen = frozen
        self.image_size = _square(tower)
        self.width = self._width()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images [N, 3, height, width] to features [N, C, Y, X], of the last layer."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self._intermediates(images_NCHW, indices=1, intermediates_only=True)
        return output["image_intermediates"][-1]

    def train(self, mode: bool = True) -> "ImageEncoder":
        """As any module's, but a frozen tower stays as it was when its weights were made."""
        super().train(mode)
        if self.frozen:
            self.tower.eval()
        return self

    def blank(self) -> Tensor:
        """One image of zeros, on the tower's device."""
        parameter = next(self.tower.parameters())
        sides = (self.image_size, self.image_size)
        return torch.zeros(1, 3, *sides, device=parameter.device, dtype=parameter.dtype)

    def _intermediates(self, images_NCHW: Tensor, **which: Any) -> dict[str, list[Tensor]]:
        tower: Any = self.tower
        features: dict[str, list[Tensor]] = tower.forward_intermediates(images_NCHW, **which)
        return features

    def _width(self) -> int:
        self.eval()
        with torch.no_grad():
            return int(self(self.blank()).shape[1])


class MultimodalModel(nn.Module):
    """The loss of packed sequences of text and images."""

    def __init__(
        self, encoder: ImageEncoder, connector: AverageConnector, decoder: Decoder, image_id: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.decoder = decoder
        self.image_id = image_id

    def forward(self, batch: Batch) -> Tensor:
        """Cross entropy in nats, summed over the batch's targets (not averaged).

        The caller divides by the number of targets of the whole step, so that a token weighs the
        same whichever batch or rank it lands in. Logits are made for targets only.
        """
        targets_BT = batch.labels_BT != IGNORE
        logits_MV = self.decoder.logits(self.hidden(batch)[targets_BT])
        return functional.cross_entropy(
            logits_MV.float(), batch.labels_BT[targets_BT], reduction="sum"
        )

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's hidden states [B, T, D].

        Raises:
            ValueError: the batch's <image> tokens are not those of its images.
        """
        x_BTD = self.decoder.embedding(batch.tokens_BT)
        if len(batch.images_NCHW):
            x_BTD = self._place(x_BTD, batch)
        elif _world_size() > 1:
            x_BTD = x_BTD + self._nothing()
        hidden_BTD: Tensor = self.decoder(x_BTD, batch.documents_BT, batch.positions_BT)
        return hidden_BTD

    def _place(self, x_BTD: Tensor, batch: Batch) -> Tensor:
        holes_BT = batch.tokens_BT == self.image_id
        images_NQD = self.connector(self.encoder(batch.images_NCHW))
        if holes_BT.sum() != images_NQD.shape[0] * images_NQD.shape[1]:
            raise ValueError(f"{int(holes_BT.sum())} <image> tokens, images {images_NQD.shape}")
        return x_BTD.masked_scatter(holes_BT[..., None], images_NQD.to(x_BTD.dtype))

    def _nothing(self) -> Tensor:
        """Zero, made by the tower and the connector from a blank image.

        Under FSDP their forward and backward are collective: a rank whose batch holds only text
        must take part, or ranks whose batch has images wait for it for ever. A single process
        waits for nobody and skips the cost.
        """
        tokens: Tensor = self.connector(self.encoder(self.encoder.blank()))
        return 0 * tokens.sum()


def build_model(
    config: TrainConfig, vocabulary: int, image_id: int, image_tokens: int
) -> tuple[MultimodalModel, Callable[[Image.Image], Tensor]]:
    """The model with its first weights, and the encoder's preprocessing of one image.

    The weights depend on `config.seed` and sizes only. `vocabulary` is the number of token ids.

    Raises:
        ValueError: `image_tokens` is not a square, or the encoder has no square input.
        RuntimeError: open_clip knows no such model or weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        tower, preprocess = _load_tower(config.encoder)
        encoder = ImageEncoder(tower, config.encoder.freeze)
        width = config.decoder.width
        connector = make_connector(config.connector, encoder.width, image_tokens, width)
        decoder = Decoder(config.decoder, vocabulary)
        connector.init_weights()
        decoder.init_weights()
    return MultimodalModel(encoder, connector, decoder, image_id), preprocess


def _load_tower(config: EncoderConfig) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    if config.model == BUNDLED:
        clip = load_clip(config.model)
        return clip.model.visual, clip.preprocess
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        config.model, pretrained=config.pretrained, force_image_size=config.image_size
    )
    return model.visual, preprocess


def _square(tower: Any) -> int:
    size = tower.image_size
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"the encoder's input is {size}: only square ones are read")
    return int(sides.pop())


def _world_size() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1
