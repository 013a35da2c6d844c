"""How far one picture in small is another that was cropped a little or lit otherwise.

The one is moved and scaled along each axis until it fits the other, by the method of Lucas and
Kanade (1981, "An Iterative Image Registration Technique", section 4; with the slopes of both
pictures, as their equation 8 has it). What then is left of the other tells whether they are one: a
crop leaves little, another picture of the same outline much.
"""

import numpy as np
from numpy.typing import NDArray

from shards import schema

SIDE = schema.THUMB  # pixels

STEPS = 3
FARTHEST = 0.08  # of a side, that an edge of a picture is moved
USUAL = 0.03  # of a side: a move is as likely as noise of this size makes it
NOISE = 4.0  # the variance in levels that encoders and rounding leave
GAIN = 4 / 3  # of contrast, or its inverse
AT_ONCE = 4096  # pairs

Pictures = NDArray[np.float64]  # [pairs, SIDE, SIDE]
Moves = NDArray[np.float64]  # [pairs, 4]: across, stretched across, down, stretched down; pixels

PLACES = np.arange(SIDE)
RAMP = (PLACES + 0.5) / SIDE * 2 - 1


def mismatch(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The share of a picture's variance that its pair does not explain, of either the smaller.

    Shape: both [pairs, SIDE, SIDE], levels of grey; the result [pairs], from 0.
    """
    found = [np.zeros(0)]
    for start in range(0, len(one), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        a, b = one[some].astype(float), other[some].astype(float)
        found.append(np.minimum(_left(a, b), _left(b, a)))
    return np.concatenate(found)


def _left(whole: Pictures, crop: Pictures) -> NDArray[np.float64]:
    """What is left of `crop` after the best of `STEPS` moves of `whole`."""
    crop = crop - crop.mean(axis=(1, 2), keepdims=True)
    moves, least = np.zeros((len(whole), 4)), np.full(len(whole), np.inf)
    for _ in range(STEPS + 1):
        shown = _lit(_moved(whole, moves), crop)
        rest = ((crop - shown) ** 2).mean(axis=(1, 2))
        least = np.minimum(least, rest / ((crop**2).mean(axis=(1, 2)) + NOISE))
        moves = np.clip(moves + _step(shown, crop), -FARTHEST * SIDE, FARTHEST * SIDE)
    return least


def _moved(pictures: Pictures, moves: Moves) -> Pictures:
    across, down = (
        _weights(PLACES + moves[:, k, None] + moves[:, k + 1, None] * RAMP) for k in (0, 2)
    )
    return down @ pictures @ across.swapaxes(1, 2)


def _weights(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each pixel at each place between them, by cubic convolution (Keys 1981, equation 4)."""
    away = np.abs(np.clip(places, 0, SIDE - 1)[..., None] - PLACES)
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _lit(pictures: Pictures, like: Pictures) -> Pictures:
    """About 0, in the contrast of others about 0, as far as `GAIN` allows."""
    level = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    power = (level**2).sum(axis=(1, 2)) + NOISE * SIDE**2
    gain = np.clip((level * like).sum(axis=(1, 2)) / power, 1 / GAIN, GAIN)
    return np.asarray(level * gain[:, None, None])


def _step(shown: Pictures, wanted: Pictures) -> Moves:
    """By how much more to move what is shown: least squares, with moves held near 0."""
    slopes = np.gradient((shown + wanted) / 2, axis=(1, 2))
    down, across = slopes
    ways = np.stack([across, across * RAMP, down, down * RAMP[:, None]], axis=-1)
    ways = ways.reshape(len(shown), SIDE**2, 4)
    ridge = np.eye(4) * NOISE * SIDE**2 / (4 * USUAL * SIDE) ** 2
    turned = ways.swapaxes(1, 2)
    rest = (wanted - shown).reshape(len(shown), SIDE**2, 1)
    return np.linalg.solve(turned @ ways + ridge, turned @ rest)[..., 0]
