"""What the AUC of a filter network counts, and what it leaves out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.separation import auc, separation, shuffled_scores

scores = st.lists(st.integers(0, 5), min_size=1, max_size=8)


@given(scores, scores)
def test_auc_is_the_share_of_won_comparisons(matched: list[int], shuffled: list[int]) -> None:
    wins = [(m > s) + (m == s) / 2 for m in matched for s in shuffled]
    assert np.isclose(auc(np.float32(matched), np.float32(shuffled)), np.mean(wins))


def test_shuffled_captions_leave_out_those_equal_to_the_picture_s_own() -> None:
    images = np.eye(3, dtype=np.float32)
    others = shuffled_scores(images, images, ["cat", "cat", "dog"])
    assert set(others.tolist()) == {0.0}
    assert len(others) < 3 * 10


def test_captions_are_shuffled_within_each_source() -> None:
    """A network that only tells the sources apart gets no credit for it."""
    rows = np.repeat(np.eye(2, dtype=np.float32), 40, axis=0)
    captions, sources = (
        [f"caption {row}" for row in range(80)],
        ["ab"[row // 40] for row in range(80)],
    )
    assert separation(rows, rows, captions, sources) == {"a": 0.5, "b": 0.5, "pooled": 0.5}


def test_a_source_of_one_caption_cannot_be_shuffled() -> None:
    rows = np.eye(4, dtype=np.float32)
    captions = ["icon", "icon", "cat", "dog"]
    assert separation(rows, rows, captions, [*"aabb"]) == {"b": 1.0, "pooled": 1.0}
    assert separation(rows[:2], rows[:2], captions[:2], [*"aa"]) == {}
