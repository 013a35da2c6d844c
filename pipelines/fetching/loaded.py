"""What workers that download are forked with: the resizer, which takes most of a second to load."""

from pipelines.loading import loading
from shards.resizing import module

with loading():
    module()
