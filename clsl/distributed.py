"""What several processes that train as one, each on its device, tell each other. In a process of its own all of it is idle.

`torchrun` starts them. Each takes its share of every batch; a loss that compares images sees those of all. DistributedDataParallel
averages the processes' gradients, so a loss is the mean over a process's own rows.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


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
    """Which of them this one is; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()


def share(n: int) -> slice:
    """This process's part of n rows. Raises ValueError where they cannot be shared out equally."""
    if n % world():
        raise ValueError(f"a batch of {n} images cannot be shared equally by {world()} processes")
    size = n // world()
    return slice(rank() * size, (rank() + 1) * size)


def gathered(x: torch.Tensor) -> torch.Tensor:
    """The rows [n, …] of all processes, as many of each, in the order of their ranks: [world · n, …]; without a gradient."""
    if world() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gathered_with_gradient(x: torch.Tensor) -> torch.Tensor:
    """`gathered`, through which the gradients of all processes come back to the one whose rows they are."""
    return x if world() == 1 else _Gathered.apply(x)


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, with its gradient."""
    return x if world() == 1 else _Total.apply(x)


def from_first(make: Callable[[], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """What the first process makes, of the shape, type and device of `like`, for all."""
    if world() == 1:
        return make()
    out = make().to(like.device) if rank() == 0 else torch.empty_like(like)
    dist.broadcast(out, 0)
    return out


def parallel(module: nn.Module) -> nn.Module:
    """The module with its gradients averaged over the processes."""
    if world() == 1:
        return module
    where = next(module.parameters()).device
    devices = [where.index] if where.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def synchronised(module: nn.Module) -> nn.Module:
    """The module with batch normalisation over the images of all processes; torch's own, which only GPUs have, or ours."""
    if world() == 1:
        return module
    if torch.cuda.is_available():
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.__class__ = _SyncBatchNorm
    return module


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return gathered(x)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(grad := grad.contiguous())
        return grad[share(len(grad))]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x := x.clone())
        return x

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(grad := grad.clone())
        return grad


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all processes, each with as many images, on CPUs."""

    def _check_input_dim(self, x: torch.Tensor) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            wide, rest = x.float(), [i for i in range(x.ndim) if i != 1]
            shape = [-1 if i == 1 else 1 for i in range(x.ndim)]
            mean = total(wide.mean(rest)) / world()
            centred = wide - mean.view(shape)
            variance = total(centred.square().mean(rest)) / world()
            n = x.numel() // x.shape[1] * world()
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * n / (n - 1), self.momentum)
                self.num_batches_tracked += 1
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
