# ruff: noqa: N803, N806, N815 - tensors carry their shapes as suffixes
"""From a packed sequence to the tensors that a step needs.

Guarantees, each with a test in tests/trainer/test_data.py:
- which sequences a step sees depends on how many were consumed before, and on nothing else, so
  the state of the data is one integer and any number of ranks reads the same global batch;
- a target is a text or end-of-document token, and never lies in another document;
- what the tokenizer counts is what the shard says, or the run stops.

Shape suffixes: B sequences, T positions (the shards' `seq_len`), N images of the whole batch in
the order in which their tokens stand.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from io import BytesIO
from itertools import islice, tee
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from filters.clip import on_white
from shards.loader import Sequence, Shards
from shards.storage import location
from shards.stores.options import StorageOptions
from shards.tokens import SPECIALS, load_tokenizer, tokenizer_identity

IGNORE = -100  # the label of a position that has no target, as torch's cross entropy names it
PADDING = -1  # the document id of all padding of a sequence

Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer of a shard folder, and the ids that are not text."""

    name: str
    tokenizer: Tokenizer
    size: int
    eos: int
    image: int
    pad: int


@dataclass(frozen=True)
class Batch:
    """Packed sequences as tensors; one sequence is a batch of one."""

    corpora: tuple[str, ...]
    tokens_BT: Tensor  # int64
    documents_BT: Tensor  # int64; counts from 0 in each sequence, `PADDING` behind the last
    positions_BT: Tensor  # int64; restarts at each document
    labels_BT: Tensor  # int64; the next token where that is a target, else `IGNORE`
    images_NCHW: Tensor  # float32

    @property
    def filled(self) -> int:
        """Positions that are not padding."""
        return int((self.documents_BT != PADDING).sum())

    @property
    def targets(self) -> int:
        """Positions that the loss counts."""
        return int((self.labels_BT != IGNORE).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.corpora,
            *(getattr(self, f.name).to(device) for f in fields(self) if f.name != "corpora"),
        )


def vocabulary(manifest: dict[str, Any], options: StorageOptions | None = None) -> Vocabulary:
    """The tokenizer that a shard folder was packed with, and its special tokens.

    `options` say how to reach the tokenizer if it is in an object store.

    Raises:
        FileNotFoundError: it is not here.
        ValueError: it is not the same file any more, or lacks <eos>, <image> or <pad>.
    """
    name = manifest["tokenizer"]["name"]
    place = location(name, options)
    if tokenizer_identity(place)["sha256"] != manifest["tokenizer"]["sha256"]:
        raise ValueError(f"tokenizer {name} is not the one that the shards were packed with")
    tokenizer = load_tokenizer(place)
    ids = tokenizer.get_vocab()
    if missing := [token for token in SPECIALS if token not in ids]:
        raise ValueError(f"tokenizer {name} lacks {', '.join(missing)}")
    eos, image, pad = (ids[token] for token in SPECIALS)
    return Vocabulary(name, tokenizer, tokenizer.get_vocab_size(), eos, image, pad)


def split(sequences: int, held_out: float) -> tuple[range, range]:
    """Training positions and held-out positions: the last `held_out` of them, at least one.

    Raises:
        ValueError: nothing would be left to train on.
    """
    first = sequences - max(1, round(sequences * held_out))
    if first < 1:
        raise ValueError(f"{sequences} sequences are too few to hold {held_out} of them out")
    return range(first), range(first, sequences)


def step_positions(
    training: range, consumed: int, batch_size: int, rank: int = 0, world: int = 1
) -> list[int]:
    """The positions that `rank` of `world` reads after `consumed` sequences of all ranks.

    Positions come in the shards' own order, which holds the mixture's ratio at every prefix,
    epoch after epoch. Ranks take turns inside a step, as in `shards.loader.positions_of`.

    Raises:
        ValueError: the batch does not divide among the ranks.
    """
    if batch_size % world:
        raise ValueError(f"a batch of {batch_size} does not divide among {world} ranks")
    turns = range(consumed + rank, consumed + batch_size, world)
    return [training[turn % len(training)] for turn in turns]


class Examples:
    """The sequences of a shard folder by global position, as batches.

    Args:
        cache: prepared sequences kept in memory, so that epochs over few sequences decode each
            image once. 0 keeps none.
    """

    def __init__(self, shards: Shards, words: Vocabulary, preprocess: Preprocess, cache: int = 0):
        self.shards = shards
        self.words = words
        self.preprocess = preprocess
        self.example = lru_cache(maxsize=cache)(self._example)

    def __len__(self) -> int:
        return len(self.shards)

    def batches(self, steps: Iterable[list[int]]) -> Iterator[Batch]:
        """The sequences at the positions of each step; those of a store are read ahead.

        Raises:
            ValueError: a sequence's tokens are not what its shard says, or an image is broken.
        """
        sizes, steps = tee(steps)
        positions = (position for step in steps for position in step)
        examples = self.shards.ahead(self.example, positions)
        for step in sizes:
            yield join(list(islice(examples, len(step))))

    def batch(self, positions: list[int]) -> Batch:
        """The sequences at `positions`; raises as `batches`."""
        return next(self.batches([positions]))

    def _example(self, position: int) -> Batch:
        return to_tensors(self.shards[position], self.shards, self.words, self.preprocess)


def join(examples: list[Batch]) -> Batch:
    """One batch of several."""
    return Batch(
        corpora=tuple(corpus for example in examples for corpus in example.corpora),
        tokens_BT=torch.cat([example.tokens_BT for example in examples]),
        documents_BT=torch.cat([example.documents_BT for example in examples]),
        positions_BT=torch.cat([example.positions_BT for example in examples]),
        labels_BT=torch.cat([example.labels_BT for example in examples]),
        images_NCHW=torch.cat([example.images_NCHW for example in examples]),
    )


def to_tensors(
    sequence: Sequence, shards: Shards, words: Vocabulary, preprocess: Preprocess
) -> Batch:
    """One packed sequence, padded to the shards' `seq_len`.

    Raises:
        ValueError: its tokens are not what its shard says, or an image cannot be decoded.
    """
    documents = [_token_ids(segment, words) for segment in sequence.segments]
    lengths = torch.tensor([len(ids) for ids in documents])
    _check_length(sequence, int(lengths.sum()), shards, words)
    tokens_T = torch.tensor([token for ids in documents for token in ids])
    documents_T = torch.arange(len(documents)).repeat_interleave(lengths)
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    room = (0, shards.manifest["seq_len"] - len(tokens_T))
    return Batch(
        corpora=(sequence.corpus,),
        tokens_BT=functional.pad(tokens_T, room, value=words.pad)[None],
        documents_BT=functional.pad(documents_T, room, value=PADDING)[None],
        positions_BT=functional.pad(positions_T, room)[None],
        labels_BT=functional.pad(_labels(tokens_T, documents_T, words), room, value=IGNORE)[None],
        images_NCHW=_images(sequence, shards, preprocess),
    )


def _token_ids(segment: dict[str, Any], words: Vocabulary) -> list[int]:
    ids: list[int] = []
    for part in segment["parts"]:
        if "text" in part:
            ids += words.tokenizer.encode(part["text"], add_special_tokens=False).ids
        else:
            ids += [words.image] * part["tokens"]
    return [*ids, words.eos]


def _check_length(sequence: Sequence, tokens: int, shards: Shards, words: Vocabulary) -> None:
    room = shards.manifest["seq_len"]
    if tokens != sequence.tokens or tokens > room:
        raise ValueError(
            f"{_where(sequence, shards)} is {tokens} tokens by tokenizer {words.name}, and its "
            f"shard says {sequence.tokens} of {room}: mix again with this tokenizer"
        )


def _where(sequence: Sequence, shards: Shards) -> str:
    firsts = [shard["first"] for shard in shards.manifest["shards"]]
    name = shards.manifest["shards"][bisect_right(firsts, sequence.position) - 1]["name"]
    return f"{shards.root / name}: sequence {sequence.position}"


def _labels(tokens_T: Tensor, documents_T: Tensor, words: Vocabulary) -> Tensor:
    """The next token, where it is of the same document and not an image's."""
    next_T = tokens_T[1:]
    counts = (documents_T[1:] == documents_T[:-1]) & (next_T != words.image)
    return functional.pad(next_T.where(counts, IGNORE), (0, 1), value=IGNORE)


def _images(sequence: Sequence, shards: Shards, preprocess: Preprocess) -> Tensor:
    parts = [part for segment in sequence.segments for part in segment["parts"]]
    members = [part["image"] for part in parts if "image" in part]
    try:
        pixels = [_pixels(sequence.images[member], preprocess) for member in members]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{_where(sequence, shards)}: an image is broken: {error}") from error
    # torch joins an empty vector with tensors of any shape.
    return torch.stack(pixels) if pixels else torch.empty(0)


def _pixels(data: bytes, preprocess: Preprocess) -> Tensor:
    with Image.open(BytesIO(data)) as image:
        return preprocess(on_white(image))
