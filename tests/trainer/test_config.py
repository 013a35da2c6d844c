import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.reading import ConfigError, check
from shards.storage import Remote, write_atomic
from shards.stores.options import S3Options
from trainer.config import TrainConfig, load_config

DEMO = Path(__file__).parents[2] / "configs" / "train-demo.yaml"


def test_the_demo_config_loads_and_overrides_reach_into_boxes() -> None:
    config = load_config(DEMO, ["decoder.width=64", "optimiser.peak_lr=mm1", "out=/tmp/elsewhere"])
    assert config.decoder.width == 64
    assert config.optimiser.peak_lr == "mm1"
    assert config.out == Path("/tmp/elsewhere")


def test_an_unknown_key_is_named_with_those_allowed(values: dict[str, Any]) -> None:
    values["decoder"]["widht"] = 3
    with pytest.raises(ConfigError) as caught:
        check(TrainConfig, values, "a.yaml")
    assert str(caught.value).startswith("a.yaml: ")
    assert "decoder.widht: unknown key; allowed: width, layers" in str(caught.value)


def test_every_problem_is_told_at_once(values: dict[str, Any]) -> None:
    del values["steps"]
    values["held_out"] = 1.5
    values["stpes"] = 3
    with pytest.raises(ConfigError) as caught:
        check(TrainConfig, values, "a.yaml")
    assert "held_out: Input should be less than 1" in str(caught.value)
    assert "steps: Field required" in str(caught.value)
    assert "stpes: unknown key; allowed: name, storage, shards" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("decoder.heads", 5, "width must be heads times an even head width"),
        ("decoder.kv_heads", 3, "heads must be a multiple of kv_heads"),
        ("encoder.freeze", True, "a frozen encoder needs pretrained weights"),
        ("connector.kind", "resampler", "Input should be 'average'"),
        ("batch_size", 0, "greater than or equal to 1"),
    ],
)
def test_values_out_of_range_name_their_key(
    values: dict[str, Any], tmp_path: Path, key: str, value: object, reason: str
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as caught:
        load_config(path, [f"{key}={value}"])
    assert key.split(".")[0] in str(caught.value)
    assert reason in str(caught.value)


def test_a_config_in_a_bucket_that_names_another(values: dict[str, Any], bucket: Remote) -> None:
    section = {"s3": {"endpoint": "http://store.example", "region": "eu-1"}}
    values |= {"storage": section, "shards": "s3://other/run/shards"}
    write_atomic(bucket / "train.yaml", yaml.safe_dump(values).encode())
    config = load_config(f"{bucket}train.yaml", ["storage.s3.region=eu-2"])
    assert isinstance(config.shards, Remote)
    assert str(config.shards) == "s3://other/run/shards"
    assert config.shards.options == S3Options(endpoint="http://store.example", region="eu-2")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(bucket / "none.yaml")
    with pytest.raises(ConfigError, match=r"storage\.s3\.regoin: unknown key; allowed: endpoint"):
        load_config(bucket / "train.yaml", ["storage.s3.regoin=x"])


def test_an_override_must_be_key_equals_value(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="write it as key=value"):
        load_config(path, ["steps"])
    with pytest.raises(ConfigError, match="steps is not a section"):
        load_config(path, ["steps.more=1"])


def test_a_config_survives_being_written_as_json(values: dict[str, Any]) -> None:
    config = check(TrainConfig, values, "a.yaml")
    assert check(TrainConfig, json.loads(config.model_dump_json()), "a.json") == config


def test_importing_the_config_does_not_import_torch() -> None:
    code = "import sys, trainer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
