"""Recipes: YAML read into pydantic models, with errors that name the key and what is allowed."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shards.storage import Location, location, read_bytes


class ConfigError(ValueError):
    """A recipe that cannot be run; the message names the key and what is allowed there."""


class Strict(BaseModel):
    """The base of every section: no unknown keys, no edits after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Positive = Annotated[int, Field(gt=0)]

Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], path: str | Location, assignments: Sequence[str] = ()) -> Model:
    """Read a recipe, apply `key=value` assignments and check it; raises `ConfigError`."""
    tree = read_yaml(path)
    for assignment in assignments:
        set_key(tree, assignment)
    return check(model, tree, str(path))


def check(model: type[Model], tree: dict[str, Any], where: str) -> Model:
    """A checked recipe from plain values; raises `ConfigError`, which begins with `where`."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from error


def read_yaml(path: str | Location) -> dict[str, Any]:
    """A YAML file that holds one mapping; raises `ConfigError` with the place of a mistake."""
    try:
        tree = yaml.safe_load(read_bytes(location(path)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys, found {type(tree).__name__}")
    return tree


def set_key(tree: dict[str, Any], assignment: str) -> None:
    """Apply one `a.b.c=value` to a recipe's tree; the value is read as YAML.

    Of a list of steps or filters a name stands for the entry of that name: `steps.clip.model`, and
    `steps.filter_images-2` for the second one.
    """
    key, separator, value = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {assignment}: write it as key=value, such as mix.seq_len=2048")
    *parents, last = key.split(".")
    section: Any = tree
    for name in parents:
        holder, at = _entry(section, name, assignment)
        section = holder[at] = {} if holder.get(at) is None else holder[at]
        if not isinstance(section, dict | list):
            raise ConfigError(f"--set {assignment}: {name} is not a section")
    holder, at = _entry(section, last, assignment)
    holder[at] = yaml.safe_load(value)


def _entry(section: Any, name: str, assignment: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds what `name` stands for, and the key that it has there."""
    if isinstance(section, dict):
        return section, name
    names = [next(iter(item)) if isinstance(item, dict) and item else item for item in section]
    kind, _, number = name.partition("-")
    found = [at for at, each in enumerate(names) if each == kind]
    if not (number or "1").isdecimal() or not 0 < int(number or 1) <= len(found):
        there = ", ".join(map(str, names)) or "none"
        raise ConfigError(f"--set {assignment}: no {name} in the list; there are {there}")
    at = found[int(number or 1) - 1]
    section[at] = section[at] if isinstance(section[at], dict) else {kind: {}}
    return section[at], kind


def _allowed(model: type[BaseModel], location: Sequence[int | str]) -> str:
    """The keys that exist where an unknown one was found, if the place can be told."""
    current: Any = model
    for step in location[:-1]:
        if isinstance(step, str):
            if not hasattr(current, "model_fields") or step not in current.model_fields:
                return ""
            current = current.model_fields[step].annotation
        current = _model_in(current) or current
    return ", ".join(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The first model within a type such as `Annotated[list[Clip], ...] | None`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """A `ValidationError` as lines of `file: key: what is wrong and what is allowed`."""
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "recipe"
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"unknown key; allowed: {_allowed(model, item['loc'])}"
        elif item["type"] not in ("missing", "value_error"):
            what = f"{what} (found {item['input']!r})"
        lines.append(f"{where}: {key}: {what}")
    return "\n".join(lines)
