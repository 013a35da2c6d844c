"""Scores through Beam's RunInference: parts are the elements, and a process has one model."""

import hashlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from configs.reading import ConfigError
from filters import clip
from filters.clip import ClipModel, embed_images, load_clip, pair_scores
from pipelines.config.steps import Clip
from pipelines.scores import score
from pipelines.scores.inference import PartHandler
from pipelines.scores.score import score_stage
from pipelines.stage import Place
from shards import ledger, schema
from shards.images import open_image, store_images
from shards.storage import read_table, write_table
from tests.pipelines.by_hand import run_stage, source, write_stage
from tests.pipelines.small import SAMPLE
from tests.trainer.networks import shape_pairs, tiny_network
from trainer.filter_network import Options, Settings, train
from trainer.pairs import read_pairs, split
from trainer.ranks import Ranks

RED, BLUE = "http://a.example/red.png", "http://a.example/blue.png"


def square(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 24), colour).save(out, "PNG")
    return out.getvalue()


def pair(url: str, caption: str) -> dict[str, Any]:
    return schema.document("web", None, [schema.image_part(url), schema.text_part(caption)])


PARTS = [
    schema.documents([pair(RED, "red"), pair(BLUE, "blue")]),
    schema.documents([]),
    schema.documents([schema.document("web", "u", [schema.text_part("no picture")])]),
    schema.documents([pair(RED, "blue")]),
]


@pytest.fixture(autouse=True)
def no_model() -> Iterator[None]:
    """A process keeps its model; these tests ask for one after another."""
    score._loaded.cache_clear()
    yield
    score._loaded.cache_clear()


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of four parts of documents and of the download of their images."""
    fetched = tmp_path / "download"
    replies = [(RED, square("red"), None), (BLUE, square("blue"), None)]
    index = store_images(replies, fetched / "store" / "a.tar", "store/a.tar")
    for part in range(len(PARTS)):
        write_table(fetched / "index" / f"{ledger.part_name(part)}.parquet", index)
    return write_stage(tmp_path / "dedupe", PARTS), fetched


def run(tmp_path: Path, given: tuple[Path, Path], *clips: Clip) -> Place:
    asked = clips or (Clip(),)
    stage = score_stage("web/score", source("web/dedupe"), source("web/download"), asked)
    return run_stage(stage, tmp_path / "score", given[:1], given[1:])


def scores(place: Place, part: int) -> list[float | None]:
    table = read_table(place.out / "documents" / f"{ledger.part_name(part)}.parquet")
    filled = ["parts", "scores"]
    assert table.drop_columns(filled).equals(PARTS[part].drop_columns(filled))
    found: list[float | None] = schema.flatten_parts(table)[1].field("score").to_pylist()
    return found


FAKE = ClipModel(None, Image.Image.copy, str, "cpu")  # type: ignore[arg-type]
MODELS = score.Models([FAKE])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a model was loaded and used; its score is the mean red of a picture."""
    calls = {"loaded": 0, "used": 0, "pictures": 0}

    def load(name: str, pretrained: str | None, **how: object) -> ClipModel:
        assert (name, pretrained) == ("mixwright-small", None)
        calls["loaded"] += 1
        return FAKE

    def embed(models: Any, bodies: Iterator[bytes], decode: Any) -> list[np.ndarray]:
        assert models == MODELS
        found = [np.asarray(decode(body))[..., 0].mean() / 255 for body in bodies]
        calls["used"] += 1
        calls["pictures"] += len(found)
        return [np.array(found, np.float32).reshape(-1, 1)]

    def fits(documents: pa.Table, pictures: np.ndarray, model: ClipModel) -> np.ndarray:
        return pictures[:, 0].astype(np.float64)

    monkeypatch.setattr(score, "scorer", load)
    monkeypatch.setattr(score, "embed_once", embed)
    monkeypatch.setattr(score, "best_fits", fits)
    return calls


def test_a_model_is_loaded_once_and_used_once_a_part(
    tmp_path: Path, given: tuple[Path, Path], counted: dict[str, int]
):
    place = run(tmp_path, given)
    assert counted == {"loaded": 1, "used": 4, "pictures": 3}
    assert [scores(place, part) for part in range(4)] == [[1, None, 0, None], [], [None], [1, None]]


def test_scoring_drops_nothing(tmp_path: Path, given: tuple[Path, Path], counted: dict[str, int]):
    place = run(tmp_path, given)
    assert ledger.read_counts(place.out) == ledger.Counts({"document": 4}, {"document": 4})


def test_a_part_that_is_there_is_not_scored_again(
    tmp_path: Path, given: tuple[Path, Path], counted: dict[str, int]
):
    place = run(tmp_path, given)
    (place.out / "counts" / "part-00003.json").unlink()
    run(tmp_path, given)
    assert counted["used"] == 5
    assert scores(place, 3) == [1, None]


def test_elements_are_parts_one_a_batch(
    tmp_path: Path, given: tuple[Path, Path], counted: dict[str, int]
):
    place = Place("web/score", tmp_path, tmp_path / "out", given[:1], given[1:], 4)
    handler = PartHandler(lambda: MODELS, partial(score._scored, place=place, clips=[Clip()]))
    assert handler.batch_elements_kwargs() == {"max_batch_size": 1}
    results = list(handler.run_inference([3, 0], MODELS))
    assert [result.example for result in results] == [3, 0]
    assert [result.inference.documents.num_rows for result in results] == [1, 2]


def test_the_bundled_model_scores_pairs_as_it_does_by_itself(
    tmp_path: Path, given: tuple[Path, Path]
):
    place = run(tmp_path, given)
    pictures = [open_image(square(colour)) for colour in ("red", "blue", "red")]
    expected = pair_scores(load_clip(), pictures, ["red", "blue", "blue"])
    found = [s for part in (0, 3) for s in scores(place, part) if s is not None]
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert named(place, 0) == [[("similarity", score)] for score in found[:2]]
    assert named(place, 2) == [[]]  # no picture, no score


def test_a_network_that_was_trained_scores_as_the_recipe_s_model(
    tmp_path: Path, given: tuple[Path, Path]
):
    start = tiny_network(tmp_path / "start")
    pairs = split(read_pairs([str(shape_pairs(tmp_path / "pairs"))]).pairs)
    settings = Settings(steps=4, batch=16, model=str(start), learning_rate=1e-2)
    alone = Ranks(0, 1, torch.device("cpu"))
    train(settings, Options(), pairs, tmp_path / "trained", alone)
    pictures = [open_image(square(colour)) for colour in ("red", "blue", "red")]
    found = []
    for model in (tmp_path / "trained", start):
        expected = pair_scores(load_clip(str(model)), pictures, ["red", "blue", "blue"])
        place = run(tmp_path / f"run of {model.name}", given, Clip(model=str(model)))
        found.append([s for part in (0, 3) for s in scores(place, part) if s is not None])
        assert found[-1] == pytest.approx(expected.tolist(), abs=1e-4)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


def test_scores_do_not_depend_on_how_documents_are_grouped(tmp_path: Path):
    colours = ["red", "blue", "white", "black", "green"]
    urls = [f"http://a.example/{colour}.png" for colour in colours]
    replies = ((url, square(c), None) for url, c in zip(urls, colours, strict=True))
    store = tmp_path / "download"
    index = store_images(replies, store / "store" / "a.tar", "store/a.tar")
    for part in range(len(urls)):
        write_table(store / "index" / f"{ledger.part_name(part)}.parquet", index)
    every = schema.documents([pair(url, c) for url, c in zip(urls, colours, strict=True)])
    found = []
    for size in (1, 3, 5):
        home, parts = tmp_path / str(size), [every[k : k + size] for k in range(0, 5, size)]
        place = run(home, (write_stage(home / "dedupe", parts), store))
        found.append([row for part in range(len(parts)) for row in named(place, part)])
    assert found[0] == found[1] == found[2]
    scores = [dict(row)["similarity"] for row in found[0]]
    pictures = [open_image(square(colour)) for colour in colours]
    assert scores == pytest.approx(pair_scores(load_clip(), pictures, colours).tolist(), abs=1e-4)


def named(place: Place, part: int) -> list[Any]:
    """The scores of the documents."""
    table = read_table(place.out / "documents" / f"{ledger.part_name(part)}.parquet")
    return list(table["scores"].to_pylist())


def embeddings(place: Place, part: int) -> pa.Table:
    return read_table(place.out / "embeddings" / f"{ledger.part_name(part)}.parquet")


def test_several_models_score_each_by_its_name_and_the_first_one_images(
    tmp_path: Path, given: tuple[Path, Path]
):
    """The second is the first in another precision, which shows in its scores."""
    both = Clip(), Clip(name="half", precision="bf16")
    place = run(tmp_path, given, *both)
    [red, blue] = [dict(each) for each in named(place, 0)]
    assert scores(place, 0) == [red["similarity"], None, blue["similarity"], None]
    assert red["half"] == pytest.approx(red["similarity"], abs=0.02)
    assert red["half"] != red["similarity"]


def test_embeddings_are_kept_of_each_image_of_a_part_once(tmp_path: Path):
    """Two addresses of one picture are one image, under the smaller."""
    fetched, again = tmp_path / "download", "http://a.example/again.png"
    replies = [(again, square("red"), None), (RED, square("red"), None)]
    replies.append((BLUE, square("blue"), None))
    index = store_images(iter(replies), fetched / "store" / "a.tar", "store/a.tar")
    write_table(fetched / "index" / f"{ledger.part_name(0)}.parquet", index)
    documents = schema.documents([pair(url, "a square") for url in (RED, BLUE, again, RED)])
    before = write_stage(tmp_path / "dedupe", [documents])
    place = run(tmp_path, (before, fetched), Clip(embeddings=True))
    table = embeddings(place, 0)
    pictures = {hashlib.sha256(square(c)).hexdigest(): c for c in ("red", "blue")}
    assert table["sha256"].to_pylist() == sorted(pictures)
    urls = {"red": again, "blue": BLUE}
    assert table["url"].to_pylist() == [urls[pictures[sha]] for sha in sorted(pictures)]
    opened = [open_image(square(pictures[sha])) for sha in sorted(pictures)]
    found = np.array(table["embedding"].to_pylist())
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), found.shape[1])
    assert found == pytest.approx(embed_images(load_clip(), opened), abs=1e-3)
    told = read_table(place.out / "documents" / f"{ledger.part_name(0)}.parquet")
    first, _, same, last = schema.flatten_parts(told)[1].field("score").drop_null().to_pylist()
    assert first == same == last


def test_embeddings_of_a_part_without_pictures_are_none(tmp_path: Path, given: tuple[Path, Path]):
    place = run(tmp_path, given, Clip(embeddings=True))
    assert [embeddings(place, part).num_rows for part in range(4)] == [2, 0, 0, 1]
    assert embeddings(place, 1).schema == embeddings(place, 0).schema


def test_other_weights_are_another_config(tmp_path: Path):
    """Local weights are known by size and time as well as by name."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    local = Clip(model="ViT-B-32", pretrained=str(weights))
    before = score_stage("s", source("a"), source("b"), [local]).config
    assert score_stage("s", source("a"), source("b"), [local]).config == before
    weights.write_bytes(b"12")
    assert score_stage("s", source("a"), source("b"), [local]).config != before


def test_a_network_of_one_s_own_is_known_by_the_files_of_its_folder(tmp_path: Path):
    for name in (clip.CONFIG, clip.WEIGHTS):
        (tmp_path / name).write_bytes(b"1")
    own = Clip(model=str(tmp_path))
    before = score_stage("s", source("a"), source("b"), [own]).config
    for name in (clip.CONFIG, clip.WEIGHTS):
        (tmp_path / name).write_bytes(b"12")
        after = score_stage("s", source("a"), source("b"), [own]).config
        assert after != before
        before = after
    with pytest.raises(ConfigError, match=r"clip\.model: gone/network is no network's folder"):
        score_stage("s", source("a"), source("b"), [Clip(model="gone/network")])


def test_the_bundled_weights_are_known_by_their_hash():
    weights = Path(clip.__file__).parent / "weights" / "mixwright-small.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert score_stage("s", source("a"), source("b"), [Clip()]).config[0][1] == [digest]


def saved(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def deep(picture: Image.Image) -> bytes:
    """A PNG of 16 bits a channel, whose lower eight are noise."""
    levels = np.asarray(picture).astype(np.uint16) << 8
    levels |= np.random.default_rng(1).integers(0, 256, levels.shape, np.uint16)
    _, body = cv2.imencode(".png", levels if levels.ndim == 2 else levels[..., ::-1])
    return body.tobytes()


def in_many_modes() -> dict[str, tuple[bytes, Image.Image]]:
    """A photograph's bytes in each mode, and what is to be seen of them."""
    path = SAMPLE / "www" / "stamps.mixwright.example" / "wallpapers"
    photograph = Image.open(min(path.glob("*.jpg"))).resize((300, 200))
    few, grey = photograph.quantize(32), photograph.convert("L")
    cut = photograph.convert("RGBA")
    cut.paste((0, 0, 0, 0), (50, 50, 150, 150))
    white = photograph.copy()
    white.paste("white", (50, 50, 150, 150))
    inks = saved(photograph.convert("CMYK"), "JPEG")
    return {
        "RGB": (saved(photograph), photograph),
        "palette": (saved(few), few.convert("RGB")),
        "grey": (saved(grey), grey),
        "alpha": (saved(cut), white),
        "CMYK": (inks, Image.open(io.BytesIO(inks)).convert("RGB")),
        "16-bit": (deep(photograph), photograph),
        "16-bit grey": (deep(grey), grey),
    }


def test_scores_are_those_of_open_clip_by_itself_in_any_mode(tmp_path: Path):
    """Of pictures in RGB: its transform would resize a palette by nearest pixels."""
    given, caption = in_many_modes(), "mountains in the morning"
    urls = {name: f"http://a.example/{name}" for name in given}
    replies = [(urls[name], body, None) for name, (body, _) in given.items()]
    index = store_images(replies, tmp_path / "download" / "store" / "a.tar", "store/a.tar")
    write_table(tmp_path / "download" / "index" / f"{ledger.part_name(0)}.parquet", index)
    documents = schema.documents([pair(url, caption) for url in urls.values()])
    inputs = write_stage(tmp_path / "dedupe", [documents]), tmp_path / "download"
    place = run(tmp_path, inputs, Clip())
    ours = [dict(each)["similarity"] for each in named(place, 0)]
    bare = load_clip()
    with torch.inference_mode():
        shown = torch.stack([bare.preprocess(picture) for _, picture in given.values()])
        pictures = bare.model.encode_image(shown, normalize=True)
        words = bare.model.encode_text(bare.tokenizer([caption]), normalize=True)
    assert ours == pytest.approx((pictures @ words.T)[:, 0].tolist(), abs=1e-4)
    assert ours[1] != ours[0]  # few colours show in a score
