"""The processes that train together, one a device, as torchrun starts them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

CHUNK = 64  # rows that a network sees at once when nothing is learned from them
PATIENCE = timedelta(hours=12)  # for the first process, which alone reads and hashes the pairs

Encode = Callable[[list[list[int]]], Iterator[Tensor]]  # chunks of row numbers to rows [n, d]


@dataclass(frozen=True)
class Ranks:
    """A process among the others, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, writes and tells."""
        return self.rank == 0

    def share(self, batch: list[int]) -> list[int]:
        """The part of everyone's batch that is for this process."""
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.world > 1:
            distributed.barrier()

    def mean(self, value: Tensor) -> float:
        """The mean of a number that every process has."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value.item() / self.world

    def everywhere(
        self, count: int, encode: Callable[[list[list[int]]], Iterator[Tensor]]
    ) -> Tensor:
        """Rows 0 to `count` - 1 as `encode` makes them of chunks of numbers, each in one process.

        Returns float32 [count, d] on the CPU, the same in every process.
        """
        mine = list(range(self.rank, count, self.world))
        chunks = [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)]
        found = [rows.float().cpu() for rows in encode(chunks)]
        parts: list[Tensor | None] = [torch.cat(found) if found else None]
        if self.world > 1:
            (own,), parts = parts, [None] * self.world
            distributed.all_gather_object(parts, own)
        whole = torch.empty(count, next(part.shape[1] for part in parts if part is not None))
        for rank, part in enumerate(parts):
            if part is not None:
                whole[rank :: self.world] = part
        return whole


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """The group that torchrun's environment names, or this process alone without one.

    `device` is "cpu" or "cuda"; GPUs where there are some by default.
    """
    rank, world, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    on_gpu = (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda"
    if on_gpu:
        torch.cuda.set_device(local)
    if world > 1:
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, torch.device("cuda", local) if on_gpu else torch.device("cpu"))
    finally:
        if world > 1:
            distributed.destroy_process_group()
