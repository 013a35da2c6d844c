"""The step that masks personal data: placeholders in, counts by kind beside."""

from pathlib import Path

from pipelines.config.steps import Mask
from pipelines.masking import mask_stage
from shards import schema
from shards.storage import read_table
from tests.pipelines.by_hand import run_stage, source, write_stage


def run(tmp_path: Path, options: Mask, *texts: str):
    read = schema.documents(
        schema.document("web", f"u{i}", [schema.text_part(text)]) for i, text in enumerate(texts)
    )
    stage = mask_stage("text/mask", source("text/read"), options)
    place = run_stage(stage, tmp_path / "mask", [write_stage(tmp_path / "read", [read])])
    after = read_table(place.out / "documents" / "part-00000.parquet")
    assert after["id"].to_pylist() == read["id"].to_pylist()
    return schema.texts(after), read_table(place.out / "measures" / "part-00000.parquet")


def test_what_is_personal_is_replaced_and_counted(tmp_path: Path):
    texts, counts = run(tmp_path, Mask(), "a@b.org or c@d.org, 8.8.4.4", "+49 30 1234567", "-")
    assert texts[0].count("@example.com") == 2
    assert "8.8.4.4" not in texts[0] and "1234567" not in texts[1]
    assert counts.drop_columns("id").to_pydict() == {
        "mask_email": [2.0, 0.0, 0.0],
        "mask_ip": [1.0, 0.0, 0.0],
        "mask_phone": [0.0, 1.0, 0.0],
    }


def test_fineweb_masks_no_phone_numbers(tmp_path: Path):
    texts, counts = run(tmp_path, Mask(phone=False), "a@b.org +49 30 1234567")
    assert texts[0].endswith("@example.com +49 30 1234567")
    assert counts.column_names == ["id", "mask_email", "mask_ip"]


def test_the_key_changes_the_placeholders_and_the_fingerprint(tmp_path: Path):
    one, _ = run(tmp_path / "one", Mask(key="one"), "a@b.org")
    two, _ = run(tmp_path / "two", Mask(key="two"), "a@b.org")
    assert one != two
    stages = [mask_stage("text/mask", source("text/read"), Mask(key=key)) for key in ("a", "b")]
    assert stages[0].config != stages[1].config


def test_a_secret_key_is_not_in_the_run_folder():
    stage = mask_stage("text/mask", source("text/read"), Mask(key="a secret"))
    assert "a secret" not in str(stage.config)
