"""What the area under the ROC curve counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.ranking import auc

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_order(good: list[float], bad: list[float]):
    pairs = [(g > b) + (g == b) / 2 for g in good for b in bad]
    assert auc(np.array(good), np.array(bad)) == pytest.approx(sum(pairs) / len(pairs))
