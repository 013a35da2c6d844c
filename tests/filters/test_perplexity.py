"""Perplexity: the mean surprise of words and line ends, by hand and by KenLM."""

import math
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer

from filters.perplexity import _splitter, perplexities, perplexity
from tests.tools import lacking

UNIGRAMS = """\
-1.0\t<unk>\t0
0\t<s>\t-0.3
-1.2\t</s>\t0
-0.5\tcats\t-0.2
-0.9\tpurr\t-0.1
"""
BIGRAMS = "-0.1\t<s> cats\n-0.2\tcats purr\n-0.15\tpurr </s>\n"
ARPA = f"\\data\\\nngram 1=5\nngram 2=3\n\n\\1-grams:\n{UNIGRAMS}\n\\2-grams:\n{BIGRAMS}\n\\end\\\n"


def by_hand(sentence: str) -> float:
    """The log10 probability of a sentence under the model above, as ARPA files are defined."""
    single = {"</s>": -1.2, "cats": -0.5, "purr": -0.9}
    back_off = {"<s>": -0.3, "cats": -0.2, "purr": -0.1}
    pairs = {("<s>", "cats"): -0.1, ("cats", "purr"): -0.2, ("purr", "</s>"): -0.15}
    words = ["<s>", *sentence.split(), "</s>"]
    return sum(
        pairs.get(pair, back_off.get(pair[0], 0.0) + single.get(pair[1], -1.0))
        for pair in pairwise(words)
    )


def test_perplexity_is_over_words_and_line_ends():
    assert by_hand("cats purr") == pytest.approx(-0.45)
    assert perplexity("cats purr", by_hand) == pytest.approx(10 ** (0.45 / 3))
    # Two lines are two sentences; blank ones are none.
    both = -(by_hand("cats purr") + by_hand("purr")) / 5
    assert perplexity("cats purr\n\n purr \n", by_hand) == pytest.approx(10**both)


def test_words_may_be_split_otherwise():
    assert perplexity("catspurr", by_hand, lambda line: ["cats", "purr"]) == pytest.approx(
        perplexity("cats purr", by_hand)
    )


def test_a_text_without_words_has_none():
    assert math.isnan(perplexity(" \n ", by_hand))


def test_stranger_words_surprise_more():
    assert perplexity("dogs bark", by_hand) > perplexity("cats purr", by_hand)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixwright\[perplexity\]"'):
        perplexities(["cats"], "nowhere.arpa")


def test_words_may_be_pieces(tmp_path: Path):
    model = tmp_path / "pieces"
    lines = iter(["cats purr", "cats cats purr", "purr cats"] * 10)
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(model), vocab_size=12, minloglevel=2
    )
    split = _splitter(f"{model}.model")
    pieces = split("cats purrs")
    assert "".join(pieces) == "\N{LOWER ONE EIGHTH BLOCK}cats\N{LOWER ONE EIGHTH BLOCK}purrs"
    assert len(pieces) > 2
    spelt = by_hand(" ".join(pieces))
    assert perplexity("cats purrs", by_hand, split) == pytest.approx(
        10 ** (-spelt / (len(pieces) + 1))
    )


def test_kenlm_says_the_same(tmp_path: Path):
    if find_spec("kenlm") is None:
        lacking("no kenlm: pip install kenlm, which needs a C++ compiler and CMake")
    model = tmp_path / "cats.arpa"
    model.write_text(ARPA)
    texts = ["cats purr", "purr cats\n\ndogs", "cats cats purr", ""]
    expected = np.array([perplexity(text, by_hand) for text in texts], np.float32)
    np.testing.assert_allclose(perplexities(texts, str(model)), expected, rtol=1e-5)
