# ruff: noqa: N803, N806 - tensors carry their shapes as suffixes
"""A Llama-shaped decoder over packed sequences, in which no document sees another.

Guarantees, each with a test of its name in tests/trainer/test_decoder.py:
- packed logits are the logits of each document alone;
- positions restart at every document, so that a document's place in the pack does not matter.

The shape of a tensor is the suffix of its name:
    B  sequences in the batch          V  words of the vocabulary
    T  positions in a sequence         H  query heads
    D  width of the model              K  key and value heads (K divides H)
    F  hidden width of the FFN         E  width of a head (D / H)

Llama: Touvron et al. 2023 (arXiv 2302.13971), section 2.2; grouped-query attention: Ainslie et
al. 2023 (arXiv 2305.13245). Rotary halves are laid out as in the published Llama weights.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import DecoderConfig

NORM_EPS = 1e-5
INIT_STD = 0.02
Rotation = tuple[Tensor, Tensor]


class Decoder(nn.Module):
    """Token embeddings, blocks and a final norm; the output layer is the embedding, transposed."""

    def __init__(self, config: DecoderConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Hidden states [B, T, D] of embedded inputs.

        `documents_BT` says which document of its sequence a position belongs to (all padding of a
        sequence shares one id of its own), and `positions_BT` its place there, from 0.
        """
        allowed_BTT = document_mask(documents_BT)
        rotation = rotary(positions_BT, self.config)
        for block in self.blocks:
            x_BTD = block(x_BTD, allowed_BTT, rotation)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., V]."""
        return functional.linear(hidden, self.embedding.weight)

    def non_embedding_parameters(self) -> int:
        """What MM1's learning-rate law counts."""
        return sum(p.numel() for p in self.parameters()) - self.embedding.weight.numel()

    def init_weights(self) -> None:
        """Draws every weight from torch's global generator.

        Matrices and embeddings: normal, 0.02. Outputs into the residual stream: that over
        sqrt(2 x layers), so that its variance does not grow with depth (Radford et al. 2019,
        GPT-2, section 2.3). Norms: 1.
        """
        residual_std = INIT_STD / (2 * self.config.layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                into_residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else INIT_STD)


class Block(nn.Module):
    """Attention, then the FFN, each behind a norm and added to what came in."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.ffn = SwiGLU(config)

    def forward(self, x_BTD: Tensor, allowed_BTT: Tensor, rotation: Rotation) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), allowed_BTT, rotation)
        out_BTD: Tensor = x_BTD + self.ffn(self.ffn_norm(x_BTD))
        return out_BTD


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, inside documents only."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        narrow = config.kv_heads * self.head_width
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, narrow, bias=False)
        self.value = nn.Linear(config.width, narrow, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, allowed_BTT: Tensor, rotation: Rotation) -> Tensor:
        """[B, T, D] to [B, T, D]; position i reads where `allowed_BTT[:, i]` is true."""
        query_BHTE = rotate(self._heads(self.query(x_BTD)), rotation)
        key_BKTE = rotate(self._heads(self.key(x_BTD)), rotation)
        value_BKTE = self._heads(self.value(x_BTD))
        mixed_BHTE = functional.scaled_dot_product_attention(
            query_BHTE, key_BKTE, value_BKTE, attn_mask=allowed_BTT[:, None], enable_gqa=True
        )
        out_BTD: Tensor = self.out(mixed_BHTE.transpose(1, 2).flatten(2))
        return out_BTD

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden = ffn_width(config)
        self.gate = nn.Linear(config.width, hidden, bias=False)
        self.up = nn.Linear(config.width, hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        hidden_BTF = functional.silu(self.gate(x_BTD)) * self.up(x_BTD)
        out_BTD: Tensor = self.down(hidden_BTF)
        return out_BTD


def ffn_width(config: DecoderConfig) -> int:
    """`width` x `ffn_multiple`, up to the next multiple of 32, which matrix kernels like."""
    return -(-round(config.width * config.ffn_multiple) // 32) * 32


def document_mask(documents_BT: Tensor) -> Tensor:
    """Bool [B, T, T]: position i (row) may look at position j (column).

    It may at those of its own document up to itself. Every row allows at least itself, so
    that softmax never divides by zero, in padding either.
    """
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.tril()


def rotary(positions_BT: Tensor, config: DecoderConfig) -> Rotation:
    """Cosines and sines [B, 1, T, E / 2], in float32: Su et al. 2021 (arXiv 2104.09864)."""
    head_width = config.width // config.heads
    half = torch.arange(0, head_width, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None] * config.rope_theta ** (-half / head_width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns each pair (x[e], x[e + E / 2]) of a head by its position's angle."""
    cosine, sine = rotation
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=-1).type_as(x)
