from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards import storage
from shards.loader import open_shards
from shards.tokens import load_tokenizer
from tests.trainer.samples import (
    IMAGE_TOKENS,
    SEQ_LEN,
    image,
    mixture,
    sequence,
    text,
    write_shards,
)
from trainer.data import IGNORE, PADDING, Batch, Examples, split, step_positions, vocabulary


def red(picture: Image.Image) -> torch.Tensor:
    """A preprocessing that keeps the colour which tells the samples' images apart."""
    return torch.full((3, 2, 2), float(picture.getpixel((0, 0))[0]))


def examples(root: Path, cache: int = 0) -> Examples:
    shards = open_shards(root)
    return Examples(shards, vocabulary(shards.manifest), red, cache)


def one(root: Path, *documents: list[dict]) -> Batch:
    return examples(write_shards(root, [sequence("captions", *documents)])).batch([0])


def ids(words: str) -> list[int]:
    return load_tokenizer().encode(words, add_special_tokens=False).ids


def test_a_sequence_becomes_its_tokens_in_order(tmp_path: Path) -> None:
    batch = one(tmp_path, [image(7), text("a red cat")], [text("two dogs"), image(9)])
    cat, dogs = ids("a red cat"), ids("two dogs")
    first, second = [1] * IMAGE_TOKENS + cat + [0], dogs + [1] * IMAGE_TOKENS + [0]
    rest = SEQ_LEN - len(first) - len(second)
    assert batch.corpora == ("captions",)
    assert batch.tokens_BT[0].tolist() == first + second + [2] * rest
    expected = [0] * len(first) + [1] * len(second) + [PADDING] * rest
    assert batch.documents_BT[0].tolist() == expected
    positions = [*range(len(first)), *range(len(second)), *[0] * rest]
    assert batch.positions_BT[0].tolist() == positions
    assert batch.images_NCHW[:, 0, 0, 0].tolist() == [7, 9]
    assert batch.filled == len(first) + len(second)


def test_a_target_is_text_or_end_and_never_in_another_document(tmp_path: Path) -> None:
    batch = one(tmp_path, [image(7), text("a red cat")], [text("two dogs"), image(9)])
    cat, dogs = ids("a red cat"), ids("two dogs")
    # The last image token foretells the caption; nothing foretells an image or the next document.
    first = [IGNORE] * (IMAGE_TOKENS - 1) + [*cat, 0, IGNORE]
    second = [*dogs[1:], IGNORE, *[IGNORE] * (IMAGE_TOKENS - 1), 0, IGNORE]
    rest = [IGNORE] * (SEQ_LEN - len(first) - len(second))
    assert batch.labels_BT[0].tolist() == first + second + rest
    assert batch.targets == len(cat) + 1 + len(dogs) - 1 + 1


def test_a_page_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    batch = one(tmp_path, [text("write <image> or <eos> here")])
    assert not (batch.tokens_BT == 1).any()
    assert (batch.tokens_BT == 0).sum() == 1  # the one that closes the document
    assert len(batch.images_NCHW) == 0


def test_a_batch_joins_sequences_and_the_images_of_those_that_have_any(shards: Path) -> None:
    batch = examples(shards).batch([0, 2, 3])
    assert batch.corpora == ("captions", "text", "captions")
    assert batch.tokens_BT.shape == (3, SEQ_LEN)
    assert batch.images_NCHW[:, 0, 0, 0].tolist() == [0, 1, 9, 10]


def test_another_token_count_names_shard_and_tokenizer(tmp_path: Path) -> None:
    row = sequence("text", [text("one two three")])
    root = write_shards(tmp_path, [*mixture(4), row | {"tokens": row["tokens"] + 1}])
    reason = (
        rf"mixwright-00001.tar: sequence 4 is {row['tokens']} tokens by tokenizer mixwright-8k, "
        rf"and its shard says {row['tokens'] + 1}"
    )
    with pytest.raises(ValueError, match=reason):
        examples(root).batch([4])


def test_another_tokenizer_than_the_shards_is_refused(tmp_path: Path) -> None:
    path = write_shards(tmp_path, mixture(2)) / "manifest.json"
    manifest = storage.read_json(path)
    manifest["tokenizer"]["sha256"] = "0" * 64
    storage.write_json(path, manifest)
    with pytest.raises(ValueError, match="mixwright-8k is not the one"):
        examples(tmp_path)


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    text = load_tokenizer().to_str().replace("<image>", "<picture>")
    path.write_text(text, encoding="utf-8")
    identity = {"name": str(path), "sha256": storage.sha256_file(path)}
    with pytest.raises(ValueError, match="lacks <image>"):
        vocabulary({"tokenizer": identity})


def test_a_broken_image_names_its_sequence(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def truncated(picture: Image.Image) -> torch.Tensor:
        raise OSError("image file is truncated")

    broken = examples(shards)
    monkeypatch.setattr(broken, "preprocess", truncated)
    with pytest.raises(ValueError, match="sequence 1: an image is broken: image file is truncated"):
        broken.batch([1])


def test_the_cache_prepares_each_sequence_once(shards: Path) -> None:
    seen: list[tuple[int, int]] = []

    def count(picture: Image.Image) -> torch.Tensor:
        seen.append(picture.size)
        return red(picture)

    cached = examples(shards, cache=4)
    cached.preprocess = count
    first, again = cached.batch([0, 1]), cached.batch([0, 1])
    assert seen == [(40, 24)] * 4
    assert torch.equal(first.images_NCHW, again.images_NCHW)


def test_held_out_positions_are_the_last() -> None:
    assert split(100, 0.1) == (range(90), range(90, 100))
    assert split(3, 0.01) == (range(2), range(2, 3))
    with pytest.raises(ValueError, match="1 sequences are too few"):
        split(1, 0.1)


def test_epochs_follow_each_other_in_the_order_of_the_shards() -> None:
    steps = [step_positions(range(5), consumed, 2) for consumed in range(0, 10, 2)]
    assert steps == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]


def test_a_batch_must_divide_among_the_ranks() -> None:
    with pytest.raises(ValueError, match="batch of 4 does not divide among 3 ranks"):
        step_positions(range(5), 0, 4, rank=0, world=3)


@given(
    st.integers(1, 50), st.integers(0, 10**9), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 8])
)
def test_any_number_of_ranks_reads_the_same_global_batch(
    training: int, consumed: int, each: int, world: int
) -> None:
    step = (range(training), consumed, each * world)
    whole = step_positions(*step)
    ranks = [step_positions(*step, rank, world) for rank in range(world)]
    assert sorted(whole) == sorted(position for rank in ranks for position in rank)
    assert all(len(rank) == each for rank in ranks)
