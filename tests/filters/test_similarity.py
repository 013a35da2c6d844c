"""Which words a picture is compared with, and what the best of them is worth."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from filters import similarity
from filters.clip import embed_images, load_clip, pair_scores
from filters.similarity import best_fits, best_pictures, candidates
from shards import schema

text = schema.text_part


def image(alt: str | None = None) -> dict[str, Any]:
    return schema.image_part("http://a.example/1.jpg", alt)


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
def plane(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model whose words are points of a plane; tells which it was asked for."""
    asked: list[str] = []

    def embed_texts(clip: Any, texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([VECTORS[t.strip(".")] for t in texts], np.float32)

    monkeypatch.setattr(similarity, "embed_texts", embed_texts)
    return asked


def pictures(*names: str) -> np.ndarray:
    return np.array([VECTORS[name] for name in names], np.float32)


PAGES = [
    [image(), text("both.")],
    [text("opposite."), image("dog"), text("both."), image("third"), text("dog.")],
    [text("dog.")],
    [image(), text("opposite.")],
    [image(), text("third.")],
]


@pytest.mark.usefixtures("plane")
def test_the_best_fitting_text_counts_for_each_picture():
    documents = schema.documents(
        schema.document("web", str(i), parts) for i, parts in enumerate(PAGES)
    )
    shown = pictures("cat", "cat", "dog", "cat", "cat")
    scores = best_fits(documents, shown, None)  # type: ignore[arg-type]
    # 1: the cat next to "opposite", "dog", "both" and "dog"; 2: the dog of the same page.
    assert scores.tolist() == [0.6, 0.6, 1.0, -1.0, 0.3333]
    best = best_pictures(documents, scores)
    assert np.array_equal(best, [0.6, 1.0, np.nan, -1.0, 0.3333], equal_nan=True)


def test_a_sentence_that_several_pictures_share_is_embedded_once(plane: list[str]):
    page = [text("cat. dog."), image(), image("both"), text("dog.")]
    documents = schema.documents([schema.document("web", "1", page)])
    best_fits(documents, pictures("cat", "cat"), None)  # type: ignore[arg-type]
    assert sorted(plane) == ["both", "cat.", "dog."]


def test_documents_without_pictures_need_no_model():
    prose = schema.documents([schema.document("web", "1", [text("Prose.")])])
    assert best_fits(prose, np.zeros((0, 2)), None).tolist() == []  # type: ignore[arg-type]


def test_with_the_bundled_network_a_caption_has_its_pair_score_and_a_page_the_best():
    clip = load_clip()
    red, words = Image.new("RGB", (32, 32), "red"), ["A red square.", "The weather in May."]
    captions = schema.documents(
        schema.document("web", word, [image(), text(word)]) for word in words
    )
    page = schema.documents([schema.document("web", None, [text(words[0]), image(words[1])] * 2)])
    seen = embed_images(clip, [red, red])
    pairs = best_fits(captions, seen, clip)
    assert pairs == pytest.approx(pair_scores(clip, [red, red], words), abs=1e-6)
    assert pairs[0] != pairs[1]
    assert best_fits(page, seen, clip).tolist() == [max(pairs)] * 2
