"""A split's pixels where a training wants them: on its device, in memory, or read ahead from their file."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from .augment import SMALL
from .images import Images


class Pixels:
    """A split's pixels: on a GPU if they take no more than half of its memory, in memory if they are small, else in their file."""

    def __init__(self, images: Images, where: torch.device):
        self.where, self.side = where, images.images.shape[1]
        self.stored = images.images
        room = torch.cuda.mem_get_info(where)[0] // 2 if where.type == "cuda" else 2**30 * (self.side <= SMALL)
        self.resident = images.images.nbytes <= room
        if self.resident:
            self.stored = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous().to(where)

    def each(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The images at indices [n], for each of some: uint8 [n, 3, S, S] on the device; the next are read during the last."""
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
