"""What workers of the local engine are forked with."""

from importlib import import_module

from pipelines.loading import loading
from shards.resizing import module

with loading():
    import_module("pipelines.engines.local")
    import_module("pipelines.recipe")
    module()
