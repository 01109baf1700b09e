"""The run of a configuration: trained here, or taken from a committed record. Nothing is trained twice; every number starts here."""

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

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import nn

from .. import ROOT, Diverged, clusters, data, device, encoders, evaluate, train
from ..config import Pretraining
from ..data import kept
from ..methods import METHODS
from . import claims, fingerprint, records
from .progress import Progress


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its configuration and its record."""

    config: Pretraining
    path: Path

    @functools.cached_property
    def record(self) -> dict:
        """All that is kept of the run, as records.write keeps it."""
        return records.read(self.path, self.config)

    @property
    def result(self) -> dict:
        """top1 and knn in percent; h_z, i_zt, h_z_given_t in bits; num_clusters; seconds of training."""
        return self.record["result"]

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: epoch, loss, lr, seconds, num_clusters; h_z, i_zt, h_z_given_t in bits."""
        return pd.DataFrame(self.record["history"])

    def encoder(self) -> nn.Module:
        """The trained encoder, in evaluation mode, on the CPU. Raises OSError where only the record is at hand."""
        name = fingerprint.name(self.config)
        paths = [self.path.with_name("encoder.safetensors"), *ROOT.glob(f"figures/*/encoders/{name}.safetensors")]
        for path in (path for path in paths if path.exists()):
            try:
                weights = kept.load_weights(path)
            except kept.Damaged as error:
                print(f"clsl: {error}: they do not count", file=sys.stderr)
                if path.parent == self.path.parent:  # the run's own; get(config, fresh=True) trains it anew where they are not
                    path.unlink(missing_ok=True)
                continue
            encoder = encoders.build(self.config.encoder, self.config.image_size)
            encoder.load_state_dict(weights)  # which become float32 again
            return encoder.eval()
        raise OSError(f"of {name} only the record is kept, not the weights: runs.get(config, fresh=True) trains it")


def get(config: Pretraining, devices: int = 1, fresh: bool = False) -> Run:
    """The run of a configuration: from its folder or its committed record, else trained and evaluated now. See `get_all`."""
    return get_all([config], devices, fresh)[0]


def get_all(configs: Sequence[Pretraining], devices: int = 1, fresh: bool = False) -> list[Run]:
    """The runs of some configurations, in their order; those that are missing are trained behind a progress line.

    devices: the processes, one a GPU, that share each training's batches; more than one are started by torchrun. fresh: train
    also what only a committed record tells of. An interrupted training goes on from its last epoch; two processes that ask for
    the same run train it once. Every configuration's data and clusters are looked at before the first is trained. Raises what
    data.load, clusters.make and train.fit raise.
    """
    if not 1 <= devices <= max(1, torch.cuda.device_count()):
        raise ValueError(f"devices must be at least 1 and at most the {torch.cuda.device_count()} GPUs of this machine, got {devices}")
    state_of.cache_clear()
    found = {config: find(config, fresh) for config in dict.fromkeys(configs)}
    missing = [config for config, run in found.items() if run is None]
    committed = sum(run is not None and _folder(config) not in run.path.parents for config, run in found.items())
    with Progress(missing, there=len(found) - len(missing), committed=committed) as progress:
        for config in missing:
            _prepare(config)
        for config in missing:
            with progress.training(config) as on_step:
                train_here(config, on_step) if devices == 1 else _launch(config, devices, on_step)
            found[config] = find(config, fresh)
            if found[config] is None:
                raise OSError(f"the run in {_folder(config)} cannot be read back: delete it and try again")
    return [found[config] for config in configs]


def find(config: Pretraining, fresh: bool = False) -> Run | None:
    """The finished run of a configuration; what is damaged is named in a line, and counts as missing.

    Looked for among the runs ($CLSL_RUNS, else runs/) and the committed records ($CLSL_RECORDS, else those in figures/); if
    `fresh`, only where the weights are beside the record.
    """
    given = os.environ.get("CLSL_RECORDS")
    folders = [Path(given)] if given else [] if given == "" else sorted(ROOT.glob("figures/*/records"))
    for path in (_folder(config) / "record.json", *(folder / f"{fingerprint.name(config)}.json" for folder in folders)):
        if path.exists() and not (fresh and not path.with_name("encoder.safetensors").exists()):
            try:
                record = records.read(path, config)
                _check_predictions(path, config, record)
                return Run(config, path)
            except records.Damaged as error:
                print(f"clsl: {error}: it does not count", file=sys.stderr)
    return None


def _check_predictions(path: Path, config: Pretraining, record: dict) -> None:
    if not data.found(config.dataset):
        return
    if record["made_by"].get("data") != state_of(config.dataset):
        raise records.Damaged(f"the record {path} was made of other images than {config.dataset} has now")
    t, predicted = _tested(config).labels, records.predicted(record)
    if len(predicted) != len(t) or not abs(evaluate.accuracy(predicted, t) - record["result"]["top1"]) < 1e-9:
        raise records.Damaged(f"the record {path} has predictions that do not fit its result")


def recognised(run: Run) -> np.ndarray:
    """Whether the linear probe recognised each test image, bool [M]."""
    return (records.predicted(run.record) == _tested(run.config).labels).numpy()


def keep_encoder(weights: Path, into: Path) -> None:
    """Keep an encoder's weights in bfloat16, for what needs no training: half the size, and about three digits."""
    into.parent.mkdir(exist_ok=True)
    whole = kept.load_weights(weights)
    kept.save_weights(into, {name: value.bfloat16() if value.is_floating_point() else value for name, value in whole.items()})


_CHANGED = ("companions", "kmeans_after", "refresh", "pseudo_loss", "pseudo_rise", "pseudo_weight")


def asked(configs: Sequence[Pretraining]) -> pd.DataFrame:
    """What some configurations ask for, a row each.

    level: of WordNet; k: of attributes or k-means. changed: what is not as usual with companions, pseudo-labels or k-means. setting:
    the name of the configuration but for its seed.
    """
    rows, usual = [], {field.name: field.default for field in dataclasses.fields(Pretraining)}
    for config in configs:
        kind, options = clusters.options(config.clusters) if not config.clusters.startswith("column:") else ("", {})
        row = {name: getattr(config, name) for name in ("dataset", "encoder", "method", "clusters")}
        row |= {"level": options["level"] if kind == "wordnet" else None, "k": options.get("k"), "seed": config.seed}
        changed = [f"{name}={getattr(config, name)}" for name in _CHANGED if getattr(config, name) != usual[name]]
        row |= {"epochs": config.epochs, "batch_size": config.batch_size, "changed": ", ".join(changed) or "nothing"}
        rows.append(row | {"config": fingerprint.name(config), "setting": fingerprint.name(dataclasses.replace(config, seed=0))})
    return pd.DataFrame(rows).astype({"level": "Int64", "k": "Int64"})


def table(runs: Sequence[Run], experiment: str) -> pd.DataFrame:
    """The tidy table of some runs, one row a run; accuracy in percent, information in bits, time in seconds."""
    measured = pd.DataFrame([{name: run.result.get(name) for name in claims.MEASURED} for run in runs])
    made = {"probe": [run.config.probe for run in runs], "hardware": [records.hardware(run.record["made_by"]) for run in runs]}
    rows, last = asked([run.config for run in runs]), ["config", "setting"]
    rows.insert(0, "experiment", experiment)
    return pd.concat([rows.drop(columns=last), measured, rows[last]], axis=1).assign(**made)


def train_here(config: Pretraining, on_step: Callable[[int], None] = lambda done: None) -> None:
    """Train and evaluate into a temporary folder, which is renamed when it is complete.

    Of several processes that torchrun started, the first writes; all have to call this.
    """
    folder, first = _folder(config), device.rank() == 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    patience = -1 if device.world() == 1 else 300  # seconds; the processes beside the first would not wait for ever
    with FileLock(folder.with_name(folder.name + ".lock"), patience) if first else contextlib.nullcontext():
        device.wait()
        if find(config, fresh=True):  # another process trained it while we waited
            return
        unfinished = folder.with_name(folder.name + ".unfinished")
        origin = _origin(unfinished, config) if first else {}
        device.wait()
        try:
            _fill(unfinished, config, on_step, origin)
        except Diverged:  # and would again
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
            kept.remove(folder / "checkpoint.pt")
            (folder / "origin.json").unlink(missing_ok=True)


def _origin(unfinished: Path, config: Pretraining) -> dict:
    """What made an unfinished run so far: its images, and other machines. Begun on other images, it begins again."""
    path, here = unfinished / "origin.json", {"data": state_of(config.dataset), "machines": [records.machine()]}
    try:
        begun = json.loads(path.read_text())
        others = [each for each in begun["machines"] if each != here["machines"][0]]
    except (OSError, ValueError, KeyError, TypeError):
        begun, others = here, []
    if begun["data"] != here["data"]:
        print(f"clsl: the images of {config.dataset} have changed: the training begins again", file=sys.stderr)
        shutil.rmtree(unfinished)
        others = []
    unfinished.mkdir(exist_ok=True)
    kept.write(path, json.dumps(here | {"machines": [*others, *here["machines"]]}).encode())
    return ({"data": here["data"]} if here["data"] else {}) | ({"also_on": others} if others else {})


@functools.cache
def state_of(dataset: str) -> str | None:
    """A hash of what a data set of files holds now: files, labels and all else that is known; None for those that never change."""
    if dataset in data.cifar.DATASETS:
        return None
    state = hashlib.sha256()
    for split in ("train", "test"):
        paths, known = data.read(dataset, split)
        state.update(data.packing.state(paths).encode())
        for name, value in sorted(known.items()):
            parts = value.items() if isinstance(value, dict) else [(name, value)]
            for key, each in parts:
                state.update(f"{key}: ".encode() + (each.numpy().tobytes() if isinstance(each, torch.Tensor) else repr(each).encode()))
    return state.hexdigest()[:12]


def _fill(folder: Path, config: Pretraining, on_step: Callable[[int], None], origin: dict) -> None:
    images, test, elsewhere = _prepare(config)
    encoder, history = train.fit(config, images, folder / "checkpoint.pt", on_step)
    scores, predicted = evaluate.evaluate(encoder, images, test, config.probe, config.seed, config.image_size, elsewhere)
    if device.rank() > 0:
        return
    if config.dataset in data.cifar.DATASETS:
        origin = origin | {"pixels": hashlib.sha256(images.images.tobytes()).hexdigest()[:12]}
    last = {name: history[-1][name] for name in ("num_clusters", "h_z", "i_zt", "h_z_given_t", "companions")}  # k-means: of the last epoch
    result = last | scores | {"seconds": sum(row["seconds"] for row in history)}
    if left_out := [*images.left_out, *test.left_out]:
        result["left_out"] = left_out
    kept.save_weights(folder / "encoder.safetensors", encoder.state_dict())
    records.write(folder / "record.json", config, result, history, predicted, origin)


def _prepare(config: Pretraining) -> tuple[data.Images, data.Images, tuple[data.Images, data.Images] | None]:
    """Training and test images, and those of the data set to transfer to.

    Raises ValueError, before anything is trained, where the clusters or the sizes cannot be.
    """
    images = _images(config.dataset, "train", config.train_size, config.image_size)
    if config.batch_size > len(images):
        raise ValueError(f"batch_size {config.batch_size} is more than the {len(images)} images")
    test = _tested(config)
    whole = config.tested_on == "held_out" and _images(config.dataset, "train", None, config.image_size)
    if whole and len(images) + len(test) > len(whole):
        raise ValueError(f"{len(test)} held-out images are too many: {len(images)} of the same split are trained on")
    if len(images.class_names) > 2**15:
        raise ValueError(f"{config.dataset} has {len(images.class_names)} classes: a record keeps at most {2**15}")
    told, k = train.tell(config, images)
    alone = k is None and told.ndim == 1 and len(told.unique()) == len(images)
    if alone and METHODS[config.method].clusters is None:
        raise ValueError(f"{config.clusters} puts every image into a cluster of its own: leave it out; simclr does that")
    if config.companions and k is None and int(told.unique(dim=0, return_counts=True)[1].max()) < config.companions:
        raise ValueError(f"no cluster of {config.clusters} has {config.companions} images for a group of companions")
    if config.transfer is None:
        return images, test, None
    sizes = {"train": config.train_size, "test": config.test_size}
    return images, test, tuple(_images(config.transfer, split, n, config.image_size) for split, n in sizes.items())


def _tested(config: Pretraining) -> data.Images:
    return _images(config.dataset, config.tested_on, config.test_size, config.image_size)


def _images(name: str, split: str, size: int | None, image_size: int | None) -> data.Images:
    return _loaded(name, split, size, image_size, state_of(name))


@functools.lru_cache(maxsize=4)
def _loaded(name: str, split: str, size: int | None, image_size: int | None, state: str | None) -> data.Images:
    return data.load(name, split, size, image_size)


def folder() -> Path:
    """Where runs are kept: $CLSL_RUNS, else runs/ of the checkout."""
    return Path(os.environ.get("CLSL_RUNS") or ROOT / "runs")


def _folder(config: Pretraining) -> Path:
    return folder() / fingerprint.name(config)


def _launch(config: Pretraining, devices: int, on_step: Callable[[int], None]) -> None:
    """`python -m clsl train` in as many processes as there are devices; it prints a line a step."""
    folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(_folder(config).with_suffix(".launch"))  # waits here, before there are processes that wait for one another
    with lock, tempfile.TemporaryDirectory() as scratch, open(f"{scratch}/errors", "w+") as errors:
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(dataclasses.asdict(config)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)]
        command = [*torchrun, "-m", "clsl", "train", str(path)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            for line in process.stdout:
                if line.startswith("step "):
                    on_step(int(line.split()[1]))
        except BaseException:
            process.terminate()
            raise
        if process.wait():
            errors.seek(0)
            said = [line for line in errors if line.startswith("clsl: ")] or ["a process was killed"]
            message = said[0].removeprefix("clsl: ").strip()
            raise RuntimeError(f"torchrun failed: {message} (run again to go on from the last epoch)")
