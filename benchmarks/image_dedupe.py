"""Pictures that are planted again, changed: how many of them are found, and what else is.

Recall is the share of variants (encoded anew, resized, cropped by up to 5 %, grey, brighter or
darker) that count as one with the picture that they are made of, by kind of picture and of
variant. Precision is over a set of the real pictures and of one variant of each: the pairs found
that are one picture among all that are found. Of two real pictures that are found to be alike
someone has to say whether they are one: a comparison of both at 32 x 32 pixels, in grey and in
colour, unmoved, that neither hashes nor thumbs have a part in. Those it calls one count neither
way.

Then growth: the time that made looks take, whose hashes are crosses of real ones, ten times as many
each time; with all pairs it would grow a hundredfold.

    make bench-image_dedupe                         # about ten minutes
    make bench-image_dedupe ARGS=--quick            # less than one

The pictures are those of the bundled sample, or of a larger set that MIXWRIGHT_DEV_DATA names. The
last line is one JSON object.
"""

import argparse
import io
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  imports of the project come from here
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from filters.hamming import close_pairs
from filters.looks import LOOK, Limits, alike, looks
from pipelines.duplicates import clusters
from pipelines.duplicates import looks as shuffled
from pipelines.stage import Place
from shards.images import ImageRejectedError, inspect_image, open_image
from shards.schema import IMAGE

SAMPLE = Path(__file__).parent.parent / "tests" / "data" / "sample" / "www"
SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp"}
LEAST_SIDE = 64  # pixels
MOST_SIDE = 2500  # larger ones only take longer
CHANGED, QUICK_CHANGED = 150, 8  # pictures of a kind that variants are made of
QUICK_PICTURES = 60  # of a kind
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (1000, 10_000)
PARTITIONS = 64
SHOWN = ("photo", "figure")  # the kinds that a hash of shapes can tell apart

Picture = Image.Image


def encoded(picture: Picture, kind: str = "JPEG", **options: int) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def scaled(picture: Picture, factor: float) -> bytes:
    """A picture of another size."""
    size = [max(1, round(side * factor)) for side in picture.size]
    return encoded(picture.resize((size[0], size[1]), Image.Resampling.LANCZOS), quality=85)


def cropped(picture: Picture, left: float, top: float, right: float, bottom: float) -> bytes:
    """A picture without some shares of its sides."""
    width, height = picture.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    x0, y0, x1, y1 = map(round, box)
    return encoded(picture.crop((x0, y0, x1, y1)), quality=90)


def lit(picture: Picture, factor: float) -> bytes:
    """A brighter or darker picture."""
    return encoded(ImageEnhance.Brightness(picture).enhance(factor), quality=90)


VARIANTS: dict[str, Callable[[Picture], bytes]] = {
    "jpeg_30": partial(encoded, quality=30),
    "jpeg_60": partial(encoded, quality=60),
    "jpeg_95": partial(encoded, quality=95),
    "webp_50": partial(encoded, kind="WEBP", quality=50),
    "png": partial(encoded, kind="PNG"),
    "half": partial(scaled, factor=0.5),
    "three_quarters": partial(scaled, factor=0.75),
    "double": partial(scaled, factor=2),
    "crop_2_around": partial(cropped, left=0.01, top=0.01, right=0.01, bottom=0.01),
    "crop_5_around": partial(cropped, left=0.025, top=0.025, right=0.025, bottom=0.025),
    "crop_5_left": partial(cropped, left=0.05, top=0, right=0, bottom=0),
    "crop_3_corner": partial(cropped, left=0, top=0, right=0.03, bottom=0.03),
    "grey": lambda picture: encoded(picture.convert("L"), quality=90),
    "brighter": partial(lit, factor=1.1),
    "darker": partial(lit, factor=0.9),
}


@dataclass(frozen=True)
class Seen:
    """A picture of a kind: its row in an index, how it looks in small, and its variants' rows."""

    kind: str
    row: dict[str, Any]
    grey: Any  # [32, 32]
    colour: Any  # [4, 4, 3]
    variants: dict[str, dict[str, Any]]


def sample_files() -> Iterator[tuple[str, Path]]:
    """The bundled pictures and their kinds."""
    folders = {
        "photo": [
            "stamps.mixwright.example/wallpapers",
            "stamps.mixwright.example/wallpapers-by-sa",
        ],
        "clipart": ["pictures.mixwright.example/openclipart", "stamps.mixwright.example/tuxpaint"],
        "emoji": ["pictures.mixwright.example/noto"],
        "page": ["docs.mixwright.example", "de.mixwright.example"],
    }
    for kind, places in folders.items():
        for place in places:
            yield from ((kind, path) for path in sorted((SAMPLE / place).rglob("*")))


def larger_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The pictures of the larger set: by their table of captions, then those of its pages."""
    captions = folder / "captions"
    table = pq.read_table(captions / "captions.parquet", columns=["file", "source", "kind"])
    for row in table.to_pylist():
        yield larger_kind(row), captions / row["file"]
    yield from (("page", path) for path in sorted((folder / "html").rglob("*")))


def larger_kind(row: Mapping[str, str]) -> str:
    """Emoji and clip art by their source; of the rest, photographs are known by their colours."""
    source = row["source"].lower()
    if "noto" in source or "emoji" in source:
        return "emoji"
    if "openclip" in source or "tux" in source:
        return "clipart"
    return "photo" if row["kind"] == "photo" else "figure"


def pictures(most: int | None) -> list[tuple[str, Path]]:
    """As many of each kind as are asked for, in an order by chance, and each file's bytes once."""
    folder = os.environ.get("MIXWRIGHT_DEV_DATA")
    files = [*(larger_files(Path(folder)) if folder else sample_files())]
    random.Random(1).shuffle(files)
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    known: set[bytes] = set()
    for kind, path in files:
        if path.suffix.lower() in SUFFIXES and (most is None or len(found[kind]) < most):
            body = path.read_bytes()
            if body not in known:
                known.add(body)
                found[kind].append((kind, path))
    return [file for kind in sorted(found) for file in found[kind]]


def see(task: tuple[str, Path, bool]) -> Seen | None:
    """One picture and, if they are asked for, its variants; None if it is broken or too small."""
    kind, path, changed = task
    body = path.read_bytes()
    try:
        row = inspect_image(body)
    except ImageRejectedError:
        return None
    if not LEAST_SIDE <= min(row["width"], row["height"]) <= MOST_SIDE:
        return None
    picture = open_image(body)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float32)
    colour = np.asarray(picture.resize((4, 4), Image.Resampling.BOX), np.float32)
    made = VARIANTS if changed else {}
    return Seen(
        kind, row, grey, colour, {n: inspect_image(make(picture)) for n, make in made.items()}
    )


def look_at(files: Sequence[tuple[str, Path]], changed: int) -> list[Seen]:
    """All pictures, with variants of the first ones of each kind."""
    counts: dict[str, int] = defaultdict(int)
    tasks = []
    for kind, path in files:
        counts[kind] += 1
        tasks.append((kind, path, counts[kind] <= changed))
    with Pool() as pool:
        return [seen for seen in pool.imap(see, tasks, chunksize=8) if seen]


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Looks of rows of an index."""
    return looks(pa.Table.from_pylist([{"url": "", **row} for row in rows], schema=IMAGE))


def one_picture(seen: Sequence[Seen], low: Any, high: Any) -> Any:
    """Of which pairs both are one picture, by their pixels in small."""
    grey = np.stack([each.grey.ravel() for each in seen])
    colour = np.stack([each.colour.ravel() for each in seen])
    level = grey - grey.mean(axis=1, keepdims=True)
    norm = np.maximum(1e-6, np.linalg.norm(level, axis=1))
    like = (level[low] * level[high]).sum(axis=1) / norm[low] / norm[high] > 0.93
    flat = np.maximum(level[low].std(axis=1), level[high].std(axis=1)) < 3
    apart = np.abs(colour[low] - colour[high]).mean(axis=1)
    return (like & (apart < 25)) | (flat & (apart < 6))


def quality(seen: Sequence[Seen], limits: Limits) -> dict[str, float]:
    """Recall and precision by kind."""
    table = table_of([each.row for each in seen])
    low, high = close_pairs(np.asarray(table["phash"]), limits.distance)
    close = alike(table, low, table, high, limits)
    low, high = low[close], high[close]
    wrong = ~one_picture(seen, low, high)
    kinds = np.array([each.kind for each in seen])
    found, _ = recalls(seen, table, limits)
    figures: dict[str, float] = {}
    for group in [(kind,) for kind in sorted(set(kinds))] + [SHOWN, tuple(sorted(set(kinds)))]:
        mine = np.isin(kinds[[place for place, _ in found]], group)
        recall = float(np.mean(np.array(list(found.values()))[mine]))
        false = int((wrong & np.isin(kinds[low], group)).sum())
        right = recall * np.isin(kinds, group).sum()
        name = "all" if len(group) > len(SHOWN) else "_and_".join(group)
        figures |= {f"recall_{name}": recall, f"precision_{name}": right / max(1e-9, right + false)}
        print(
            f"{name:18s} {np.isin(kinds, group).sum():6d} pictures  recall {recall:.3f}  "
            f"precision {figures[f'precision_{name}']:.4f}  ({false} wrong pairs)"
        )
    return figures


def variant_recalls(seen: Sequence[Seen], limits: Limits) -> dict[str, float]:
    """Recall by variant."""
    found, names = recalls(seen, table_of([each.row for each in seen]), limits)
    hits = np.array(list(found.values()))
    shown = np.array([seen[place].kind in SHOWN for place, _ in found])
    figures = {}
    for name in VARIANTS:
        mine = np.array(names) == name
        every, some = float(np.mean(hits[mine])), float(np.mean(hits[mine & shown]))
        figures[f"recall_of_{name}"] = some
        print(f"{name:18s} recall {every:.3f}, of {' and '.join(SHOWN)} {some:.3f}")
    return figures


def recalls(
    seen: Sequence[Seen], table: pa.Table, limits: Limits
) -> tuple[dict[tuple[int, str], bool], list[str]]:
    """Whether each variant, by its picture's place and its name, is found; and the names."""
    planted = [(i, name, row) for i, each in enumerate(seen) for name, row in each.variants.items()]
    owners = np.array([i for i, _, _ in planted])
    other = table_of([row for _, _, row in planted])
    found = alike(table, owners, other, np.arange(len(owners)), limits)
    keys = [(i, name) for i, name, _ in planted]
    return dict(zip(keys, found.tolist(), strict=True)), [name for _, name in keys]


def crosses(table: pa.Table, count: int) -> pa.Table:
    """As many looks, whose hashes have some bits of one real hash and the others of another."""
    draw = np.random.default_rng(1)
    one, other = (draw.integers(0, len(table), count) for _ in range(2))
    phash, masks = np.asarray(table["phash"]), draw.integers(0, 2**64, count, np.uint64)
    mixed = (phash[one] & masks) | (phash[other] & ~masks)
    made = table.take(pa.array(one))
    return made.set_column(0, LOOK.field("phash"), pa.array(np.maximum(mixed, 1)))


def growth(table: pa.Table, sizes: Sequence[int], limits: Limits) -> dict[str, float]:
    """The seconds that looks take on their way through the shuffle and the partitions."""
    place = Place("x", Path(), Path(), (), (), PARTITIONS)
    figures: dict[str, float] = {}
    seconds: list[float] = []
    for count in sizes:
        made = crosses(table, count)
        started = time.process_time()
        links, largest = linked(made, place, limits)
        seconds.append(time.process_time() - started)
        figures |= {f"seconds_{count}": seconds[-1]}
        print(
            f"{count:9d} looks: {seconds[-1]:7.1f} s of the processor, {links} links, "
            f"{largest:.3f} of all rows in the largest of {PARTITIONS} partitions"
        )
    steps = zip(seconds, seconds[1:], sizes, sizes[1:], strict=False)
    exponents = [float(np.log(b / a) / np.log(n / m)) for a, b, m, n in steps]
    print(
        "time grows as the number to the power of", ", ".join(f"{each:.2f}" for each in exponents)
    )
    return figures | {"growth_exponent": exponents[-1]}


def linked(made: pa.Table, place: Place, limits: Limits) -> tuple[int, float]:
    """How many links all partitions find, and the largest one's share of the rows."""
    scoped = made.append_column("scope", pa.array(np.zeros(len(made), np.uint64)))
    pieces = dict(shuffled.by_block(scoped, np.arange(len(made)), place, limits.distance))
    found = [clusters.forest(*shuffled.pairs(rows, limits)).num_rows for rows in pieces.values()]
    sizes = [rows.num_rows for rows in pieces.values()]
    return sum(found), max(sizes) / sum(sizes)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures and looks")
    quick = parser.parse_args().quick
    files = pictures(QUICK_PICTURES if quick else None)
    seen = look_at(files, QUICK_CHANGED if quick else CHANGED)
    limits = Limits()
    for distance in (6, 8, 12):
        print(f"\nhashes {distance} bits apart")
        quality(seen, Limits(distance))
    print(f"\nby default, {limits.distance}")
    figures = {"pictures": float(len(seen))} | quality(seen, limits) | variant_recalls(seen, limits)
    table = table_of([each.row for each in seen])
    figures |= growth(table, QUICK_SIZES if quick else SIZES, limits)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
