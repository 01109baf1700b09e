"""A configuration's directory: its result, history and encoder. Nothing is trained twice, and every number starts here."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from . import ROOT, clusters, data, encoders, evaluate, provenance, train
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
        encoder = encoders.build(self.config.encoder)
        encoder.load_state_dict(load_file(self.folder / "encoder.safetensors"))
        return encoder.eval()


def get(config: Pretraining) -> Run:
    """The run of a configuration: from its directory, else trained and evaluated now. See `get_all`."""
    return get_all([config])[0]


def get_all(configs: Sequence[Pretraining]) -> list[Run]:
    """The runs of some configurations, in their order; those that are missing are trained behind one progress line.

    An interrupted training goes on from its last epoch; two processes that ask for the same run train it once.
    Every configuration's data and clusters are looked at before the first is trained. Raises what data.load,
    clusters.make and train.fit raise, and DryRun where `reproduce` only wants to know what would be trained.
    """
    missing = list(dict.fromkeys(config for config in configs if not (_folder(config) / "result.json").exists()))
    for config in missing:
        _prepare(config)
    if os.environ.get("CLSL_DRY_RUN"):
        raise DryRun(f"{len(missing)} of {len(dict.fromkeys(configs))} runs to train, {sum(c.epochs for c in missing)} epochs")
    epochs = sum(config.epochs for config in missing)
    with _progress_file() as file, tqdm(total=epochs, file=file, delay=0.01, bar_format="{desc} · {remaining} left") as bar:
        for i, config in enumerate(missing, 1):
            _train(config, bar, f"run {i} of {len(missing)}, {config.method} on {config.clusters}")
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


def _train(config: Pretraining, bar: tqdm, title: str) -> None:
    """Train and evaluate into a temporary folder, which is renamed when it is complete."""
    folder, before = _folder(config), bar.n

    def on_epoch(done: int) -> None:
        bar.n = before + done
        bar.set_description_str(f"{title}, epoch {done} of {config.epochs}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not (folder / "result.json").exists():  # or another process trained it while we waited
            unfinished = folder.with_name(folder.name + ".unfinished")
            unfinished.mkdir(exist_ok=True)
            try:
                _fill(unfinished, config, on_epoch)
            except ValueError:  # it diverged, and would again
                shutil.rmtree(unfinished)
                raise
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    on_epoch(config.epochs)


def _fill(folder: Path, config: Pretraining, on_epoch: Callable[[int], None]) -> None:
    images, test, z = _prepare(config)
    checkpoint = folder / "checkpoint.pt"
    encoder, history = train.fit(config, images, z, checkpoint, on_epoch)
    scores = evaluate.evaluate(encoder, images, test, config.probe, config.seed)
    history = pd.DataFrame(history)
    statistics = history[["num_clusters", "h_z", "i_zt", "h_z_given_t"]].iloc[-1].to_dict()  # k-means: of the last epoch
    result = statistics | scores | {"seconds": history["seconds"].sum(), "provenance": provenance.machine()}
    result["num_clusters"] = int(result["num_clusters"])
    history.to_csv(folder / "history.csv", index=False)
    save_file({name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}, folder / "encoder.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    checkpoint.unlink()


def _prepare(config: Pretraining) -> tuple[data.Images, data.Images, torch.Tensor | clusters.KMeans]:
    """Training images, test images and what the method is told of each training image."""
    images = _images(config.dataset, "train", config.train_size)
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    test = _images(config.dataset, config.tested_on, config.test_size)
    if config.tested_on == "held_out" and len(images) + len(test) > len(_images(config.dataset, "train", None)):
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
