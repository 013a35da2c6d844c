"""CLIP scores of pictures through the pipeline, beside a bare open_clip loop.

Both score the same pairs of the bundled sample (or of MIXWRIGHT_DEV_DATA) with the same model, in
batches of 16, decoding included. The loop opens files, one process on one thread, and makes RGB of
them before the model's transform, as open_clip's loader of WebDataset shards does: the transform
by itself would resize a palette by nearest pixels. Ours is the step clip on the local engine with
one worker, from the image store to scored documents. Pictures are as the download stores them by
default. Start-up (imports, the model, the engine) is apart: figures are slopes between a few pairs
and all. The models are the bundled one and a ViT-B-32 with random weights, which take as long as
others.

    make bench-images_clip ARGS=--quick        # less than a minute on an idle machine
    make bench-images_clip

The last line is one JSON object; its ratios are above 1 where this project is better.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam
import checkout  # noqa: F401  imports of the project come from here
import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import text_dedupe
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.config.steps import Clip
from pipelines.engines.forks import forks
from pipelines.scores.score import score_stage
from pipelines.stage import Place, Stage
from shards import ledger, schema
from shards.images import Resize, read_images, store_images
from shards.storage import names, read_table, write_table

VIT = "ViT-B-32"
BATCH = 16
PAIRS = {"mixwright-small": (160, 640), VIT: (32, 224)}  # a few, all
QUICK = {"mixwright-small": (64, 256)}
PART = 160
SIDE = 378  # pixels of the shorter side, of pictures that have more

Pairs = list[tuple[bytes, str]]


def main() -> None:
    """Compare, and print what was found; or, as a child, run one side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the bundled model on fewer pairs")
    parser.add_argument("--repeats", type=int, default=3, help="of which the best counts")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, folder, model, weights = options.child
        SIDES[side](Path(folder), model, weights or None)
        return
    print(json.dumps(compare(QUICK if options.quick else PAIRS, options.repeats)))


def compare(asked: dict[str, tuple[int, int]], repeats: int = 3) -> dict[str, Any]:
    """Both sides with each model, in turns, so that the machine's moods are shared."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        given = pairs(max(many for _, many in asked.values()))
        for model, sizes in asked.items():
            weights = random_weights(Path(name), model) if model == VIT else None
            folders = [make_input(Path(name) / f"{model}-{n}", given[:n]) for n in sizes]
            taken = [measured(folders, model, weights) for _ in range(repeats)]
            key = model.replace("-", "_").lower()
            found = report(taken, [read_table(f / "index.parquet").num_rows for f in folders])
            found["largest_difference"] = difference(folders[-1])
            figures |= {f"clip_{key}_{name}": value for name, value in found.items()}
    for name, value in figures.items():
        print(f"{name:48} {value:10.4f}", file=sys.stderr)
    return figures


# --- material


def pairs(n: int) -> Pairs:
    """Up to `n` pictures with captions; no picture or caption is there twice."""
    found: dict[bytes, str] = {}
    for path, caption in candidates():
        if len(found) < n and path.is_file():
            body = path.read_bytes()
            if body not in found and caption not in found.values():
                found[body] = caption
    return list(found.items())


def candidates() -> list[tuple[Path, str]]:
    """Paths and captions, in an order of their own."""
    folder = Path(os.environ.get("MIXWRIGHT_DEV_DATA", "unset")) / "captions"
    if (folder / "captions.parquet").exists():
        rows = pq.read_table(folder / "captions.parquet").to_pylist()
        found = [(folder / row["file"], row["caption"]) for row in rows]
    else:
        rows = pq.read_table(corpus.SAMPLE / "captions.parquet").to_pylist()
        urls = [(urlsplit(row["url"]), row["caption"]) for row in rows]
        found = [(corpus.SAMPLE / "www" / u.netloc / u.path[1:], caption) for u, caption in urls]
    return sorted(found, key=lambda pair: schema.digest(str(pair[0])))


def random_weights(folder: Path, model: str) -> str:
    """A file of weights that open_clip has made up."""
    import open_clip
    from safetensors.torch import save_file

    place = folder / f"{model}.safetensors"
    state = open_clip.create_model(model).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, place)
    return str(place)


def make_input(folder: Path, given: Pairs) -> Path:
    """The pairs as finished stages for ours, and as files for the loop: the same stored bytes."""
    bodies = ((f"http://bench.example/{k}", body, None) for k, (body, _) in enumerate(given))
    store = folder / "download"
    index = store_images(bodies, store / "store" / "a.tar", "store/a.tar", Resize(SIDE))
    whole = index.filter(index["tar"].is_valid())
    write_table(folder / "index.parquet", whole)
    (folder / "files").mkdir()
    for number, body in enumerate(read_images(store, whole)):
        (folder / "files" / f"{number:05d}").write_bytes(body)
    texts = {f"http://bench.example/{k}": text for k, (_, text) in enumerate(given)}
    captions = [texts[url] for url in whole["url"].to_pylist()]
    (folder / "captions.json").write_text(json.dumps(captions))
    make_stages(folder, whole, captions)
    return folder


def make_stages(folder: Path, index: pa.Table, captions: Sequence[str]) -> None:
    """Documents in parts, and the index of each."""
    made = folder / "made" / "out"
    parts = range(0, len(captions), PART)
    for number, first in enumerate(parts):
        rows = index.slice(first, PART)
        write_table(folder / "download" / "index" / f"{ledger.part_name(number)}.parquet", rows)
        of_part = zip(rows["url"].to_pylist(), captions[first : first + PART], strict=True)
        documents = schema.documents(
            schema.document("bench", None, [schema.image_part(url), schema.text_part(text)])
            for url, text in of_part
        )
        counts = {"document": documents.num_rows}
        nothing = schema.DROP.empty_table()
        ledger.write_part(made, number, documents, nothing, read=counts, kept=counts)
    said = {"folder": "out", "parts": len(parts), "holds": names(made)}
    counted = asdict(ledger.sum_counts(made, len(parts)))
    ledger.commit(made.parent, said | {"counts": counted})


# --- sides


def ours(folder: Path, model: str, weights: str | None) -> None:
    """The step clip, on the local engine with one worker."""
    source, fetched = (Stage(name, lambda parts, place: parts, None, ()) for name in "ab")
    stage = score_stage("captions/clip", source, fetched, [Clip(model=model, pretrained=weights)])
    out = folder / f"ours-{time.time_ns()}"
    given = (folder / "made" / "out",), (folder / "download",)
    place = Place(stage.name, folder, out / "out", *given, ledger.part_count(given[0][0]))
    engine = PipelineOptions(
        [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_processing",
            "--direct_num_workers=1",
        ]
    )
    with forks(), beam.Pipeline(options=engine) as pipeline:
        parts = pipeline | beam.Create(range(place.parts), reshuffle=False) | beam.Reshuffle()
        stage.build(parts, place)
    tables = [
        read_table(place.out / "documents" / f"{ledger.part_name(k)}.parquet")
        for k in range(place.parts)
    ]
    shown = [schema.flatten_parts(table)[1].field("score").drop_null() for table in tables]
    np.save(folder / "ours.npy", np.concatenate([np.asarray(each) for each in shown]))


def loop(folder: Path, model: str, weights: str | None) -> None:
    """Open, preprocess, stack, encode, multiply."""
    import open_clip
    import torch
    from PIL import Image

    from filters.clip import load_clip

    torch.set_num_threads(1)
    if weights is None:
        bundled = load_clip(model)
        network, preprocess, tokenizer = bundled.model, bundled.preprocess, bundled.tokenizer
    else:
        network, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=weights)
        network, tokenizer = network.eval(), open_clip.get_tokenizer(model)
    files, found = sorted((folder / "files").iterdir()), []
    captions = json.loads((folder / "captions.json").read_text())
    for first in range(0, len(files), BATCH):
        with torch.inference_mode():
            opened = (Image.open(file).convert("RGB") for file in files[first : first + BATCH])
            pictures = network.encode_image(torch.stack([preprocess(each) for each in opened]))
            words = network.encode_text(tokenizer(captions[first : first + BATCH]))
            pictures /= pictures.norm(dim=-1, keepdim=True)
            words /= words.norm(dim=-1, keepdim=True)
            found.append((pictures * words).sum(-1).numpy())
    np.save(folder / "loop.npy", np.concatenate(found))


SIDES = {"ours": ours, "loop": loop}


# --- figures


def measured(
    folders: Sequence[Path], model: str, weights: str | None
) -> dict[str, list[text_dedupe.Usage]]:
    """What each side takes for each of the inputs."""
    taken: dict[str, list[text_dedupe.Usage]] = {side: [] for side in SIDES}
    for folder in folders:
        for side, usages in taken.items():
            child = [sys.executable, __file__, "--child", side, folder, model, weights or ""]
            usages.append(text_dedupe.measured([str(each) for each in child]))
            print(f"{side} {folder.name} {usages[-1].wall:.1f} s, {usages[-1].cpu:.1f} CPU s",
                  file=sys.stderr)  # fmt: skip
    return taken


def report(
    taken: Sequence[dict[str, list[text_dedupe.Usage]]], sizes: Sequence[int]
) -> dict[str, float]:
    """The best of each side: what the others on a machine take is only ever added."""
    found: dict[str, float] = {"pairs": sizes[-1]}
    more = sizes[-1] - sizes[0]
    for side in SIDES:
        for what in ("wall", "cpu"):
            few, many = (min(getattr(each[side][k], what) for each in taken) for k in (0, -1))
            found[f"{side}_{what}_images_a_second"] = more / (many - few)
            found[f"{side}_{what}_start_seconds"] = few - (many - few) / more * sizes[0]
    for what in ("wall", "cpu"):
        ours, theirs = (found[f"{side}_{what}_images_a_second"] for side in SIDES)
        found[f"{what}_ratio"] = ours / theirs
    return found


def difference(folder: Path) -> float:
    """The largest between the scores of both sides."""
    return float(np.abs(np.load(folder / "ours.npy") - np.load(folder / "loop.npy")).max())


if __name__ == "__main__":
    main()
