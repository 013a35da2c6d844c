"""What the AUC of a filter network counts, and what it leaves out."""

import numpy as np

from trainer.separation import separation, shuffled_scores


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
