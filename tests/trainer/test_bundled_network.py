"""The parts of the bundled CLIP network's making that decide what its AUC is worth."""

from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.bundled_network import (
    Pair,
    Pictures,
    caption_pairs,
    contrast,
    distinct,
    gist,
    is_held_out,
    openclipart_pairs,
    page_pairs,
    page_sentences,
    without_lookalikes,
    wordings,
)


def test_training_pictures_that_resemble_a_held_out_one_are_left_out() -> None:
    features = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [1.0, 0.001]])[:, None]
    pictures = Pictures(torch.zeros(4, 1, 192, 6, 6), features, torch.zeros(4, 1000))
    assert without_lookalikes(pictures, train=[0, 1, 2], test=[3]) == [2]


def test_a_source_is_held_out_by_a_part_of_its_name() -> None:
    pair = Pair(Path(), "", ("a cat",), "deb:tuxpaint-stamps-default 2022")
    assert is_held_out(pair, ["tuxpaint-stamps"])
    assert not is_held_out(pair, ["openclipart"])


def test_contrast_does_not_hold_like_captions_against_each_other() -> None:
    rows = torch.eye(2)[[0, 0, 1]]
    alike = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    scale = torch.tensor(100.0)
    assert contrast(rows, rows, scale, alike).item() < 1e-6
    assert contrast(rows, rows, scale, torch.zeros_like(alike)).item() > 0.4


def test_pairs_are_read_once_for_each_picture_and_need_a_text(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    header = "file\tcaption\talt\tsource"
    rows = ["a.png\tA red square.\t\ts@1", "b.png\tRed.\tA square.\ts@1", "c.png\t\t\ts@1"]
    (tmp_path / "captions.tsv").write_text("\n".join([header, *rows]))
    (pair,) = distinct(caption_pairs(tmp_path))
    assert pair.texts == ("Red.", "A square.")
    assert pair.source == "s"


def test_openclipart_titles_come_from_the_picture_and_themes_from_its_folder(
    tmp_path: Path,
) -> None:
    title = PngInfo()
    title.add_text("Title", "Red_Apple 02")
    (tmp_path / "food" / "fruit").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "food" / "fruit" / "x.png", pnginfo=title)
    (pair,) = openclipart_pairs(tmp_path)
    assert pair.texts == ("red apple", "red apple, food fruit")


PAGE = """<html><body><p>One fish swims here. Two birds fly over there. No.</p>
<figure><img src="a.png" alt="A red square."><figcaption>Red <em>things</em>
are warm.</figcaption></figure>
<figure><img src="missing.png" alt="Nothing."></figure></body></html>"""


def test_figures_of_a_page_are_pairs_when_their_picture_is_there(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "page.html").write_text(PAGE)
    (pair,) = page_pairs(tmp_path)
    assert pair.texts == ("Red things are warm.", "A red square.")
    assert pair.source == tmp_path.name


def test_about_a_quarter_of_the_sentences_of_paragraphs_is_kept(tmp_path: Path) -> None:
    sentences = [f"This is sentence number {number}." for number in range(400)]
    paragraphs = "".join(f"<p>{sentence} No.</p>" for sentence in sentences)
    (tmp_path / "page.html").write_text(f"<html><body>{paragraphs}</body></html>")
    kept = list(page_sentences(tmp_path))
    assert set(kept) < set(sentences)
    assert 60 < len(kept) < 140


def test_the_teacher_reads_captions_without_number_and_credits() -> None:
    caption = "Figure 3.2 A cat (left) sleeps. (credit a: work by “Jo (J)”/Flickr; credit b: Al)"
    assert gist(caption) == "A cat (left) sleeps."
    assert gist("(credit: NASA)") == "(credit: NASA)"


def test_long_texts_are_reworded_by_their_sentences_and_names_as_sentences() -> None:
    caption = "The cat sleeps all day. At night it hunts mice. (credit: NASA)"
    assert wordings(caption) == (caption, "The cat sleeps all day.", "At night it hunts mice.")
    assert wordings("owl") == ("owl", "An owl.")
    assert wordings("A frog.") == ("A frog.",)
