"""What a training tells while it runs: at once what there is to do, then a bar by steps, in a notebook, a terminal or a file."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from ..config import Pretraining
from . import plan


class Interrupted(KeyboardInterrupt):
    """An interruption that a notebook shows in one line."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks an exception for
        return [str(self)]


class Progress:
    """Says what will be trained, then follows it. `there`: runs that are there already, `committed` of them as records.

    Told to the file that `reproduce` watches ($CLSL_PROGRESS), below the cell of a notebook, or to the terminal.
    """

    def __init__(self, missing: Sequence[Pretraining], there: int, committed: int):
        self.missing, self.number = missing, 0
        in_notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
        self.out = sys.stdout if in_notebook else sys.stderr
        self.watched = open(os.environ["CLSL_PROGRESS"], "a") if os.environ.get("CLSL_PROGRESS") else None
        known = f"{there} there already" + (f", {committed} of them from committed records" if committed else "")
        self._say(f"{len(missing) + there} trainings: {known}, {len(missing)} to do")

    def _say(self, line: str) -> None:
        for file in filter(None, (self.out, self.watched)):
            print(line, file=file, flush=True)

    def __enter__(self) -> "Progress":
        if self.missing:
            self.sizes = [_steps(config) for config in self.missing]
            seconds = sum(plan.cost(config)["hours"] * 3600 for config in self.missing)
            self._say(f"the {len(self.missing)} to do take about {minutes(seconds)} here")
            form = "{desc} · {percentage:.0f} % · {remaining} left"
            self.bar = tqdm(total=sum(self.sizes), file=self.watched or self.out, bar_format=form)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.missing:
            self.bar.close()
        if self.watched:
            self.watched.close()
        if kind is KeyboardInterrupt:
            raise Interrupted("interrupted; nothing is lost: run the cell again to go on from the last epoch") from None

    @contextmanager
    def training(self, config: Pretraining) -> Iterator[Callable[[int], None]]:
        """While one configuration is trained: yields what is to be told the number of its steps done."""
        before, size = sum(self.sizes[: self.number]), self.sizes[self.number]
        self.number += 1
        title = f"training {self.number} of {len(self.missing)}, {config.method} on {config.clusters}"
        self.bar.set_description_str(title, refresh=False)
        first = True

        def on_step(done: int) -> None:
            nonlocal first
            if first:  # what a checkpoint held was not done now, and says nothing of the speed
                self.bar.initial, first = self.bar.initial + done, False
            self.bar.update(before + done - self.bar.n)

        yield on_step
        self.bar.update(before + size - self.bar.n)


def _steps(config: Pretraining) -> int:
    """Steps of a training, and for the evaluation as many as of an epoch."""
    return (config.epochs + 1) * (plan.size(config) // config.batch_size)


def minutes(seconds: float) -> str:
    """A time in words: 1:23 min, or 1.6 hours from an hour and a half on."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
