"""A configuration's directory: its result, history and encoder. Nothing is trained twice, and every number starts here."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from . import ROOT, clusters, data, distributed, encoders, evaluate, plan, provenance, train
from .methods import METHODS
from .train import Pretraining


class DryRun(Exception):
    """What `get_all` would have trained."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its configuration and what lies in its directory."""

    config: Pretraining
    folder: Path

    @property
    def result(self) -> dict:
        """top1 and knn in percent; h_z, i_zt, h_z_given_t in bits; num_clusters; seconds of training; provenance."""
        return json.loads((self.folder / "result.json").read_text())

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: epoch, loss, lr, seconds, num_clusters; h_z, i_zt, h_z_given_t in bits."""
        return pd.read_csv(self.folder / "history.csv")

    def encoder(self) -> nn.Module:
        """The trained encoder, in evaluation mode, on the CPU."""
        encoder = encoders.build(self.config.encoder, self.config.image_size)
        encoder.load_state_dict(load_file(self.folder / "encoder.safetensors"))
        return encoder.eval()


def get(config: Pretraining, devices: int = 1) -> Run:
    """The run of a configuration: from its directory, else trained and evaluated now. See `get_all`."""
    return get_all([config], devices)[0]


def get_all(configs: Sequence[Pretraining], devices: int = 1) -> list[Run]:
    """The runs of some configurations, in their order; those that are missing are trained behind one progress line.

    devices: the processes, one a GPU, that share each training's batches; more than one are started by torchrun.
    An interrupted training goes on from its last epoch; two processes that ask for the same run train it once.
    Every configuration's data and clusters are looked at before the first is trained. Raises what data.load,
    clusters.make and train.fit raise, and DryRun where `reproduce` only wants to know what would be trained.
    """
    gpus = torch.cuda.device_count()
    if gpus and devices > gpus and not plan.asked():
        raise ValueError(f"devices must be at most the {gpus} GPUs of this machine, got {devices}")
    missing = list(dict.fromkeys(config for config in configs if not (_folder(config) / "result.json").exists()))
    for config in missing:
        _prepare(config)
    if path := plan.asked():
        plan.note(path, list(dict.fromkeys(configs)), missing, devices)
        raise DryRun(f"{len(missing)} runs to train")
    epochs = sum(config.epochs for config in missing)
    with _progress_file() as file, tqdm(total=epochs, file=file, delay=0.01, bar_format="{desc} · {remaining} left") as bar:
        for i, config in enumerate(missing, 1):
            _train(config, bar, f"run {i} of {len(missing)}, {config.method} on {config.clusters}", devices)
    return [Run(config, _folder(config)) for config in configs]


def table(runs: Sequence[Run], experiment: str) -> pd.DataFrame:
    """The tidy table of some runs, one row a run; accuracy in percent, information in bits, time in seconds."""
    rows = []
    for run in runs:
        config, result = run.config, run.result
        row = {"experiment": experiment, "dataset": config.dataset, "encoder": config.encoder, "method": config.method}
        row |= {"clusters": config.clusters, "num_clusters": result["num_clusters"], "seed": config.seed}
        row |= {"epochs": config.epochs}
        row |= {name: result[name] for name in ("h_z", "i_zt", "h_z_given_t", "top1", "knn", "seconds")}
        rows.append(
            row | {"config": run.folder.name, "probe": config.probe, "hardware": provenance.hardware(result["provenance"])}
        )
    return pd.DataFrame(rows)


def _folder(config: Pretraining) -> Path:
    key = json.dumps(dataclasses.asdict(config), sort_keys=True) + provenance.source_digest()
    name = f"{config.method}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return Path(os.environ.get("CLSL_RUNS") or ROOT / "runs") / name


def _train(config: Pretraining, bar: tqdm, title: str, devices: int) -> None:
    """Train and evaluate here, or in the processes that torchrun starts; the bar follows."""
    before = bar.n

    def on_epoch(done: int) -> None:
        bar.n = before + done
        bar.set_description_str(f"{title}, epoch {done} of {config.epochs}")

    if devices == 1:
        train_here(config, on_epoch)
    else:
        _launch(config, devices, on_epoch)
    on_epoch(config.epochs)


def _launch(config: Pretraining, devices: int, on_epoch: Callable[[int], None]) -> None:
    """`python -m clsl train` in as many processes as there are devices; it prints a line an epoch."""
    with tempfile.TemporaryDirectory() as scratch, open(f"{scratch}/errors", "w+") as errors:
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(dataclasses.asdict(config)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)]
        command = [*torchrun, "-m", "clsl", "train", str(path)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        for line in process.stdout:
            if line.startswith("epoch "):
                on_epoch(int(line.split()[1]))
        if process.wait():
            errors.seek(0)
            said = [line for line in errors if line.startswith("clsl: ")] or ["a process was killed"]
            message = said[0].removeprefix("clsl: ").strip()
            raise RuntimeError(f"torchrun failed: {message} (run again to go on from the last epoch)")


def train_here(config: Pretraining, on_epoch: Callable[[int], None] = lambda epoch: None) -> None:
    """Train and evaluate into a temporary folder, which is renamed when it is complete.

    Of several processes that torchrun started, the first writes; all have to call this.
    """
    folder = _folder(config)
    first = distributed.rank() == 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")) if first else contextlib.nullcontext():
        distributed.wait()
        if (folder / "result.json").exists():  # another process trained it while we waited
            return
        unfinished = folder.with_name(folder.name + ".unfinished")
        unfinished.mkdir(exist_ok=True)
        try:
            _fill(unfinished, config, on_epoch)
        except ValueError:  # it diverged, and would again
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)


def _fill(folder: Path, config: Pretraining, on_epoch: Callable[[int], None]) -> None:
    images, test, z = _prepare(config)
    checkpoint = folder / "checkpoint.pt"
    encoder, history = train.fit(config, images, z, checkpoint, on_epoch)
    scores = evaluate.evaluate(encoder, images, test, config.probe, config.seed, config.image_size)
    if distributed.rank() > 0:
        return
    history = pd.DataFrame(history)
    statistics = history[["num_clusters", "h_z", "i_zt", "h_z_given_t"]].iloc[-1].to_dict()  # k-means: of the last epoch
    result = statistics | scores | {"seconds": history["seconds"].sum(), "provenance": provenance.machine()}
    result["num_clusters"] = int(result["num_clusters"])
    if left_out := [*images.left_out, *test.left_out]:
        result["left_out"] = left_out
    history.to_csv(folder / "history.csv", index=False)
    save_file({name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}, folder / "encoder.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    checkpoint.unlink()


def _prepare(config: Pretraining) -> tuple[data.Images, data.Images, torch.Tensor | clusters.KMeans]:
    """Training images, test images and what the method is told of each training image."""
    images = _images(config.dataset, "train", config.train_size, config.image_size)
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    test = _images(config.dataset, config.tested_on, config.test_size, config.image_size)
    whole = config.tested_on == "held_out" and _images(config.dataset, "train", None, config.image_size)
    if whole and len(images) + len(test) > len(whole):
        raise ValueError(f"{len(test)} held-out images are too many: {len(images)} of the same split are trained on")
    make = clusters.vectors if METHODS[config.method].attributes else clusters.make
    z = make(config.clusters, images, config.seed)
    alone = isinstance(z, torch.Tensor) and z.ndim == 1 and len(z.unique()) == len(images)
    if alone and METHODS[config.method].clusters is None:
        raise ValueError(f"{config.clusters} puts every image into a cluster of its own: leave it out; simclr does that")
    return images, test, z


_images = functools.lru_cache(maxsize=4)(data.load)


def _progress_file():
    """Where the progress line goes: to the file that `reproduce` watches, else below the cell or the command."""
    path = os.environ.get("CLSL_PROGRESS")
    return open(path, "a") if path else contextlib.nullcontext(sys.stderr)
