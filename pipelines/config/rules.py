"""Filters and edits by name, with the thresholds that a recipe gives them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError, model_validator

from configs.reading import Strict
from filters import captions, images, pages, scored, text
from filters.lines import EDITS
from filters.rules import Rule

FilterFunction = Callable[..., list[Rule]]


KeywordFunction = Callable[..., Any]  # a filter, or an edit of lines


class FilterSpec(Strict):
    """A filter by name, with the thresholds that differ from its defaults."""

    name: str
    thresholds: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """`name` and `{name: {threshold: value}}` are the two ways to write a filter in YAML."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            ((name, thresholds),) = value.items()
            return {"name": name, "thresholds": thresholds or {}}
        return value


def _thresholds(function: KeywordFunction) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _check_filter(spec: FilterSpec, known: Mapping[str, KeywordFunction]) -> None:
    """The filter exists and every threshold is one of its own, of the right type."""
    if spec.name not in known:
        raise ValueError(f"unknown filter {spec.name!r}; allowed: {', '.join(sorted(known))}")
    allowed = _thresholds(known[spec.name])
    for key, value in spec.thresholds.items():
        if key not in allowed:
            names = ", ".join(allowed) or "none"
            raise ValueError(f"{spec.name} has no threshold {key!r}; allowed: {names}")
        try:
            TypeAdapter(allowed[key].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            wanted = inspect.formatannotation(allowed[key].annotation)
            message = f"{spec.name}.{key} = {value!r} is not {wanted}"
            raise ValueError(message) from error


def _among(known: Mapping[str, FilterFunction]) -> AfterValidator:
    """Check that all filters of a list are in `known`."""

    def check(specs: list[FilterSpec]) -> list[FilterSpec]:
        for spec in specs:
            _check_filter(spec, known)
        return specs

    return AfterValidator(check)


DOCUMENT_FILTERS: dict[str, FilterFunction] = {
    **captions.FILTERS,
    **pages.FILTERS,
    **text.FILTERS,
    **scored.FILTERS,
}


FILTERS: dict[str, FilterFunction] = {**DOCUMENT_FILTERS, **images.FILTERS}


DocumentFilters = Annotated[list[FilterSpec], _among(DOCUMENT_FILTERS)]


ImageFilters = Annotated[list[FilterSpec], _among(images.FILTERS)]


def _edit(spec: FilterSpec) -> FilterSpec:
    _check_filter(spec, EDITS)
    return spec


Edit = Annotated[FilterSpec, AfterValidator(_edit)]
