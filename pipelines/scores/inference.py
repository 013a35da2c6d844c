"""Models through Beam's RunInference, in a module of its own: Beam loads torch for it.

Parts are the elements, so that no image is ever one: bytes are read from the store and decoded
where they are scored. Models batch by a fixed size of their own, so that a score does not depend on
how Beam groups elements.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference


class PartHandler(ModelHandler[int, PredictionResult, Any]):  # type: ignore[misc]
    """Scores whole parts by `work(part, model)`, with a model that `load` gives to a process.

    Both are sent to the workers. Beam keeps a weak reference to the model, which it has to allow.
    """

    def __init__(self, load: Callable[[], Any], work: Callable[[int, Any], Any]) -> None:
        super().__init__()
        self.load, self.work = load, work

    def load_model(self) -> Any:
        """Loaded by the first part that a process scores."""
        return self.load()

    def run_inference(
        self, batch: Sequence[int], model: Any, inference_args: Any = None
    ) -> Iterable[PredictionResult]:
        """Score each part."""
        return [PredictionResult(part, self.work(part, model)) for part in batch]

    def batch_elements_kwargs(self) -> dict[str, int]:
        """A part is a batch already."""
        return {"max_batch_size": 1}


def score_parts(parts: Any, load: Callable[[], Any], work: Callable[[int, Any], Any]) -> Any:
    """From the numbers of parts to predictions: each has a part as `example`, and its scores."""
    return parts | "score" >> RunInference(PartHandler(load, work))
