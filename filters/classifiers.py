"""fastText classifiers (Joulin et al. 2016, arXiv 1607.01759), loaded once a process."""

from functools import cache
from pathlib import Path
from typing import Any

PREFIX = "__label__"
WEIGHTS = Path(__file__).with_name("weights")


@cache
def classifier(model: str | Path) -> Any:
    """A fastText model of a file, .bin or .ftz.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
        ValueError: the file is no fastText model.
    """
    return library().load_model(str(model))


def library() -> Any:
    """The module fasttext, which takes a tenth of a second to import.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    try:
        import fasttext
    except ModuleNotFoundError as error:
        needed = 'fastText models need an extra: pip install "mixwright[pipelines]"'
        raise ModuleNotFoundError(needed, name="fasttext") from error
    return fasttext
