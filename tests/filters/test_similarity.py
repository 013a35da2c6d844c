"""Which words a picture is compared with, and what the best of them is worth."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from filters import similarity
from filters.clip import load_clip, pair_scores
from filters.similarity import best_fits, candidates
from shards import schema
from shards.images import open_image

text = schema.text_part


def image(alt: str | None = None) -> dict[str, Any]:
    return schema.image_part("http://a.example/1.jpg", alt)


def square(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(out, "PNG")
    return out.getvalue()


def test_a_caption_is_compared_whole_and_its_alt_text_is_not():
    pair = [image("cat.jpg"), text("A cat. It sleeps!\nOn a mat.")]
    assert candidates(pair) == [["A cat. It sleeps! On a mat."]]
    assert candidates(pair[::-1]) == candidates(pair)


def test_a_picture_without_words_is_compared_with_nothing():
    assert candidates([image("ignored")]) == [[""]]
    assert candidates([image(), image("")]) == [[""], [""]]


def test_in_a_page_alt_text_and_the_three_nearest_sentences_on_each_side_count():
    page = [
        text("One. Two! Three? Four."),
        image("a chart"),
        text("Five. Six."),
        image(),
        text("Seven. 八。 九！\n\nTen"),
    ]
    assert candidates(page) == [
        ["a chart", "Two!", "Three?", "Four.", "Five.", "Six.", "Seven."],
        ["Four.", "Five.", "Six.", "Seven.", "八。", "九！"],
    ]


def test_a_page_of_one_picture_and_more_texts_is_no_caption():
    page = [text("Before."), image("alt"), text("After.")]
    assert candidates(page) == [["alt", "Before.", "After."]]


def test_a_document_without_pictures_has_no_candidates():
    assert candidates([text("Prose.")]) == []
    assert candidates([]) == []


VECTORS = {
    "": (0, 0),
    "cat": (1, 0),
    "dog": (0, 1),
    "both": (0.6, 0.8),
    "opposite": (-1, 0),
    "third": (1 / 3, 0),
}


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose pictures and words are points of a plane: a red picture is a cat."""

    def embed_images(clip: Any, pictures: list[Image.Image]) -> np.ndarray:
        red = [picture.getpixel((0, 0)) == (255, 0, 0) for picture in pictures]
        return np.array([VECTORS["cat" if r else "dog"] for r in red], np.float32)

    def embed_texts(clip: Any, texts: list[str]) -> np.ndarray:
        return np.array([VECTORS[t.strip(".")] for t in texts], np.float32)

    monkeypatch.setattr(similarity, "embed_images", embed_images)
    monkeypatch.setattr(similarity, "embed_texts", embed_texts)


@pytest.mark.usefixtures("plane")
def test_the_best_fitting_text_counts_for_each_picture():
    documents = schema.documents(
        schema.document("web", str(i), parts)
        for i, parts in enumerate(
            [
                [image(), text("both.")],
                [text("opposite."), image("dog"), text("both."), image("third"), text("dog.")],
                [text("dog.")],
                [image(), text("opposite.")],
                [image(), text("third.")],
            ]
        )
    )
    cat, dog = square("red"), square("blue")
    scores = best_fits(documents, [cat, cat, dog, cat, cat], None)  # type: ignore[arg-type]
    # 1: the cat next to "opposite", "dog", "both" and "dog"; 2: the dog of the same page.
    assert scores.tolist() == [0.6, 0.6, 1.0, -1.0, 0.3333]


def test_documents_without_pictures_need_no_model():
    prose = schema.documents([schema.document("web", "1", [text("Prose.")])])
    assert best_fits(prose, [], None).tolist() == []  # type: ignore[arg-type]


def test_with_the_bundled_network_a_caption_has_its_pair_score_and_a_page_the_best():
    clip = load_clip()
    red, words = square("red"), ["A red square.", "The weather in May."]
    captions = schema.documents(
        schema.document("web", word, [image(), text(word)]) for word in words
    )
    page = schema.documents([schema.document("web", None, [text(words[0]), image(words[1])] * 2)])
    pairs = best_fits(captions, [red, red], clip)
    assert pairs == pytest.approx(pair_scores(clip, [open_image(red)] * 2, words), abs=1e-4)
    assert pairs[0] != pairs[1]
    assert best_fits(page, [red, red], clip).tolist() == [max(pairs)] * 2
