"""Where a training computes: CPU or GPU, its precision, where the pixels lie, and what processes that train as one tell each other.

`torchrun` starts such processes, each on its device. Each takes its share of every batch; a loss that compares images sees those
of all. DistributedDataParallel averages the gradients of the processes, so a loss is the mean over a process's own rows. In a
process of its own all of this is idle.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as with_gradient
from torch import nn

SMALL = 64  # pixels a side; a CPU keeps larger images in their file, and crops them one by one


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(where: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes with it, else float32."""
    if where.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def autocast(where: torch.device) -> torch.autocast:
    """Encoders compute in that precision; weights stay float32."""
    return torch.autocast(where.type, torch.bfloat16, enabled=precision(where) == torch.bfloat16)


class Pixels:
    """Pixels uint8 [N, S, S, 3]: on a GPU if they fill at most half of its memory, in memory if they are small, else in their file."""

    def __init__(self, images: np.ndarray, where: torch.device):
        self.where, self.side, self.stored = where, images.shape[1], images
        room = torch.cuda.mem_get_info(where)[0] // 2 if where.type == "cuda" else 2**30 * (self.side <= SMALL)
        self.resident = images.nbytes <= room
        if self.resident:
            self.stored = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(where)

    def each(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each batch of indices [n] its images, uint8 [n, 3, S, S] on the device; the next batch is read during the last."""
        if self.resident:
            yield from (self.stored[indices] for indices in batches)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for indices in batches:
                last, coming = coming, reader.submit(self._read, indices.cpu())
                if last:
                    yield self._moved(last.result())
            if coming:
                yield self._moved(coming.result())

    def _read(self, indices: torch.Tensor) -> torch.Tensor:
        x = torch.from_numpy(self.stored[indices.numpy()])  # by NumPy: a second team of torch's threads would be in the way
        return x.pin_memory() if self.where.type == "cuda" else x

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.where, non_blocking=True).permute(0, 3, 1, 2)


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, for a while."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among those that train together; process 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


def share(n: int) -> slice:
    """This process's part of n rows. Raises ValueError where n rows cannot be shared out equally."""
    if n % world():
        raise ValueError(f"a batch of {n} images cannot be shared equally by {world()} processes")
    size = n // world()
    return slice(rank() * size, (rank() + 1) * size)


def gathered(x: torch.Tensor) -> torch.Tensor:
    """The rows [n, …] of all processes, as many of each, in the order of their ranks: [world · n, …]; without a gradient."""
    return gathered_with_gradient(x.detach())


def gathered_with_gradient(x: torch.Tensor) -> torch.Tensor:
    """`gathered`, through which the gradients of all processes come back to the process whose rows they are."""
    return x if world() == 1 else torch.cat(with_gradient.all_gather(x))


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, with its gradient."""
    return x if world() == 1 else with_gradient.all_reduce(x)


def from_first(x: torch.Tensor) -> torch.Tensor:
    """The first process's x, for all processes, each of which has one of the same shape and type."""
    if world() > 1:
        dist.broadcast(x, 0)
    return x


def parallel(module: nn.Module) -> nn.Module:
    """The module with its gradients averaged over the processes."""
    if world() == 1:
        return module
    where = next(module.parameters()).device
    return nn.parallel.DistributedDataParallel(module, [where] if where.type == "cuda" else None, broadcast_buffers=False)


def synchronised(module: nn.Module) -> nn.Module:
    """The module with batch normalisation over the images of all processes, which torch has for GPUs only."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(module) if world() > 1 and torch.cuda.is_available() else module
