import math

import pytest
import torch
from torch import Tensor

from trainer.config import DecoderConfig
from trainer.data import PADDING
from trainer.decoder import Decoder, document_mask

CONFIG = DecoderConfig(width=32, layers=2, heads=4, kv_heads=2, rope_theta=100.0)
LENGTHS = (5, 1, 9)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG, vocabulary=50)
    decoder.init_weights()
    for parameter in decoder.parameters():  # far from the start, where attention is nearly flat
        parameter.data += 0.3 * torch.randn_like(parameter)
    return decoder.eval()


def logits(decoder: Decoder, tokens: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
    hidden = decoder(decoder.embedding(tokens[None]), documents[None], positions[None])
    return decoder.logits(hidden)[0]


def alone(decoder: Decoder, tokens: Tensor) -> Tensor:
    return logits(decoder, tokens, torch.zeros_like(tokens), torch.arange(len(tokens)))


def pack(documents: list[Tensor], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.cat([*documents, torch.full((padding,), 2)])
    ids = [torch.full((len(tokens),), k) for k, tokens in enumerate(documents)]
    positions = [torch.arange(len(tokens)) for tokens in documents]
    return (
        tokens,
        torch.cat([*ids, torch.full((padding,), PADDING)]),
        torch.cat([*positions, torch.zeros(padding, dtype=torch.int64)]),
    )


@torch.no_grad()
def test_packed_logits_are_the_logits_of_each_document_alone(decoder: Decoder) -> None:
    torch.manual_seed(1)
    documents = [torch.randint(3, 50, (length,)) for length in LENGTHS]
    packed = logits(decoder, *pack(documents, padding=4))
    separate = torch.cat([alone(decoder, tokens) for tokens in documents])
    assert (packed[: sum(LENGTHS)] - separate).abs().max() <= 1e-4
    assert packed.isfinite().all()  # padding too


@torch.no_grad()
def test_a_documents_place_in_the_pack_does_not_matter(decoder: Decoder) -> None:
    torch.manual_seed(2)
    first, second = torch.randint(3, 50, (6,)), torch.randint(3, 50, (7,))
    ahead = logits(decoder, *pack([first, second], padding=0))[:6]
    behind = logits(decoder, *pack([second, first], padding=0))[7:]
    assert (ahead - behind).abs().max() <= 1e-4


@torch.no_grad()
def test_a_later_token_changes_nothing_before_it(decoder: Decoder) -> None:
    torch.manual_seed(3)
    tokens = torch.randint(3, 50, (8,))
    changed = tokens.clone()
    changed[5] = tokens[5] % 40 + 3
    difference = (alone(decoder, tokens) - alone(decoder, changed)).abs().amax(dim=1)
    assert difference[:5].max() == 0
    assert difference[5:].min() > 1e-3


def test_the_mask_is_causal_inside_documents() -> None:
    mask = document_mask(torch.tensor([[0, 0, 1, PADDING]]))
    assert mask.int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]


def naive_logits(decoder: Decoder, tokens: Tensor) -> Tensor:
    """The same decoder, one position and one head at a time, from the papers' formulas."""
    rows = [decoder.embedding.weight[token] for token in tokens]
    for block in decoder.blocks:
        keys: list[Tensor] = []
        values: list[Tensor] = []
        out = []
        for position, row in enumerate(rows):
            x = rms(row) * block.attention_norm.weight
            keys.append(turn(block.attention.key.weight @ x, position))
            values.append(block.attention.value.weight @ x)
            query = turn(block.attention.query.weight @ x, position)
            row = row + block.attention.out.weight @ attend(query, keys, values)
            x = rms(row) * block.ffn_norm.weight
            gate, up = block.ffn.gate.weight @ x, block.ffn.up.weight @ x
            out.append(row + block.ffn.down.weight @ (gate * torch.sigmoid(gate) * up))
        rows = out
    normed = [rms(row) * decoder.norm.weight for row in rows]
    return torch.stack([decoder.embedding.weight @ row for row in normed])


def rms(row: Tensor) -> Tensor:
    return row / math.sqrt(row.square().mean().item() + 1e-5)


def turn(heads: Tensor, position: int) -> Tensor:
    pieces = []
    for head in heads.split(8):  # a head is 32 / 4 wide
        pairs = torch.complex(head[:4], head[4:])
        angles = [position * 100.0 ** (-2 * e / 8) for e in range(4)]
        turned = pairs * torch.polar(torch.ones(4), torch.tensor(angles))
        pieces += [turned.real, turned.imag]
    return torch.cat(pieces)


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    mixed = []
    for head in range(4):
        shared = slice(head // 2 * 8, head // 2 * 8 + 8)  # two query heads share a key head
        own = query[head * 8 : head * 8 + 8]
        scores = torch.stack([own @ key[shared] / math.sqrt(8) for key in keys])
        mixed.append(scores.softmax(0) @ torch.stack([value[shared] for value in values]))
    return torch.cat(mixed)


@torch.no_grad()
def test_the_decoder_is_its_formulas_one_position_at_a_time(decoder: Decoder) -> None:
    torch.manual_seed(4)
    tokens = torch.randint(3, 50, (7,))
    assert (alone(decoder, tokens) - naive_logits(decoder, tokens)).abs().max() <= 1e-4


def test_first_weights_have_the_spread_that_init_weights_says() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(width=128, layers=8, heads=4, kv_heads=2), vocabulary=500)
    decoder.init_weights()
    block = decoder.blocks[3]
    assert decoder.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.ffn.down.weight.std().item() == pytest.approx(0.005, rel=0.05)  # 0.02 / sqrt(16)
    assert block.ffn_norm.weight.eq(1).all()


def test_non_embedding_parameters_leave_the_table_out() -> None:
    small, large = Decoder(CONFIG, vocabulary=10), Decoder(CONFIG, vocabulary=1_000)
    # Per layer: query and out 32 x 32, key and value 32 x 16, the FFN's three 32 x 96, two norms.
    assert small.non_embedding_parameters() == 2 * (2 * 1024 + 2 * 512 + 3 * 3072 + 64) + 32
    assert small.non_embedding_parameters() == large.non_embedding_parameters()
