"""The papermill driver: the notebooks in order, at a profile, strict about parameters; then what came out."""

import ast
import contextlib
import dataclasses
import json
import os
import random
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd
import papermill
import torch
import yaml
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync

from .. import ROOT, config, data
from ..config import Pretraining
from . import figures, fingerprint, plan, records, report, runs

NOTEBOOKS = ROOT / "notebooks"


class Planned(NamedTuple):
    """A notebook to run: its file, the name of its results, and the parameters it declares."""

    notebook: Path
    experiment: str
    parameters: dict[str, Any]


def reproduce(
    profile: str, notebooks: Sequence[str] = (), overrides: Sequence[tuple[str, str]] = (), dry_run: bool = False, fresh: bool = False
) -> None:
    """Run the notebooks (all, or those whose names begin as given) at a profile and print what came out.

    overrides: (parameter, value as text), stronger than the profile. dry_run: run each notebook up to its trainings only, into a
    temporary folder, and list these with their estimated cost, with stand-ins for images that are not there. fresh: train all
    anew, into a new folder of runs/. Raises ValueError, before anything runs, for an unknown profile, notebook or parameter or a
    wrong value, and RuntimeError where a cell fails, with its error and the path of the executed notebook.
    """
    command = shlex.join(["./reproduce.sh", profile, *notebooks, *(word for pair in overrides for word in ("-p", *pair))])
    todo = planned(profile, notebooks, overrides)
    if dry_run:
        return _dry_run(todo, profile)
    for name in dict.fromkeys(each.parameters["training"]["dataset"] for each in todo if "training" in each.parameters):
        _fetch(name)
    environment = {}
    if fresh:
        environment = {"CLSL_RECORDS": "", "CLSL_RUNS": os.environ.get("CLSL_RUNS") or str(ROOT / "runs" / f"fresh-{time.time():.0f}")}
    with _environment(**environment):
        before = {path.parent.name for path in runs.folder().glob("*/record.json")}
        _run_all(todo, profile, command)
    if not notebooks:
        _prune(profile)
    _say_where_from(profile, before)
    print(report.closing(profile))


def _run_all(todo: Sequence[Planned], profile: str, command: str) -> None:
    clock = _Clock([each.experiment for each in todo], profile)
    with _kernel() as kernel:
        for i, each in enumerate(todo, 1):
            _run(each, profile, command, kernel, clock, f"[{i}/{len(todo)}] {each.experiment}")


def _run(each: Planned, profile: str, command: str, kernel: AsyncKernelManager, clock: "_Clock", title: str) -> None:
    with _live_line(title, clock):
        try:
            _papermill(each, profile, kernel)
        except papermill.PapermillExecutionError as error:
            output = report.shown(figures.folder(profile) / f"{each.experiment}.ipynb")
            raise RuntimeError(f"{_failure(each, error)} — see {output}") from None
    seconds = clock.done(each.experiment)
    print(f"{title} · {_minutes(seconds)}", flush=True)
    _record_provenance(profile, each.experiment, command, seconds)
    if each.notebook.stem.startswith("00"):
        report.page(profile)


def check(profile: str, n: int) -> None:
    """Train n of a profile's committed records, drawn at random, anew; print old and new side by side.

    With as many threads as then. Raises ValueError where there are fewer records, a record is of another source, or old and new
    differ.
    """
    paths = sorted((ROOT / "figures" / profile / "records").glob("*.json"))
    if not 0 < n <= len(paths):
        raise ValueError(f"--check must be between 1 and the {len(paths)} records of {profile}, got {n}")
    same = [_same(path) for path in random.sample(paths, n)]
    if not all(same):
        raise ValueError(f"{same.count(False)} of {n} records differ")
    print(f"{n} of {n} records equal bit for bit")


def _same(path: Path) -> bool:
    kept = json.loads(path.read_text())
    chosen = config.from_fields(kept["config"])
    kept, here = records.read(path, chosen), records.machine()
    if path.stem != fingerprint.name(chosen):
        raise ValueError(f"the record {path.name} is of another source: check it out at commit {kept['made_by']['commit'][:7]}")
    for name in ("device", "bfloat16", "torch"):
        if kept["made_by"][name] != here[name]:
            print(f"{path.stem}: made with {name} {kept['made_by'][name]}, here {here[name]}", flush=True)
    torch.set_num_threads(kept["made_by"]["threads"])
    with tempfile.TemporaryDirectory() as scratch, _environment(CLSL_RUNS=scratch, CLSL_RECORDS=""):
        new = runs.get(chosen).record
    pairs = {name: (kept["result"][name], new["result"][name]) for name in ("top1", "knn", "i_zt", "h_z_given_t")}
    pairs["last loss"] = kept["history"][-1]["loss"], new["history"][-1]["loss"]
    print(path.stem, *(f"{name} {old} {now}" for name, (old, now) in pairs.items()), sep=" · ", flush=True)
    losses = [[row["loss"] for row in each["history"]] for each in (kept, new)]
    return losses[0] == losses[1] and kept["predicted"] == new["predicted"] and all(old == now for old, now in pairs.values())


def _prune(profile: str) -> None:
    """Leave only the records and encoders that a table of the profile speaks of."""
    folder = figures.folder(profile)
    tables = [pd.read_csv(path) for path in folder.glob("*.csv")]
    named = {name for table in tables if "config" in table for name in table["config"]}
    for path in [*folder.glob("records/*.json"), *folder.glob("encoders/*.safetensors")]:
        if path.stem not in named:
            path.unlink()


def _say_where_from(profile: str, before: set[str]) -> None:
    """How many of a profile's trainings were done now, and how many were there."""
    names = {path.stem for path in figures.folder(profile).glob("records/*.json")}
    now = names & {path.parent.name for path in runs.folder().glob("*/record.json")} - before
    kept = names - before - now
    print(f"{len(names)} trainings: {len(kept)} from committed records, {len(names & before)} from runs/, {len(now)} trained now\n")


def profiles() -> list[str]:
    """The names of the profiles, from the quickest."""
    found = [path.stem for path in (NOTEBOOKS / "profiles").glob("*.yml")]
    order = ["smoke", "quick", "cpu", "gpu", "paper"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def read(profile: str) -> dict[str, Any]:
    """A profile: values for all notebooks; under a notebook's name its own, or a list of them, to run it once for each.

    `like: NAME` begins with the values of another profile. Raises ValueError for an unknown or a broken profile.
    """
    if profile not in profiles():
        raise ValueError(f"unknown profile {profile!r}: choose from {', '.join(profiles())} (or, without a profile, lab, slides, test)")
    try:
        values = yaml.safe_load((NOTEBOOKS / "profiles" / f"{profile}.yml").read_text())
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"profile {profile} is not a list of NAME: VALUE lines in YAML: compare {NOTEBOOKS / 'profiles'}")
    for name, own in values.items():
        each = own if isinstance(own, list) else [own]
        several = isinstance(own, list) and not all(isinstance(one, dict) and "dataset" in one.get("training", {}) for one in each)
        if _is_notebook(name) and (several or not all(isinstance(one, dict) for one in each)):
            raise ValueError(f"profile {profile}: {name} needs NAME: VALUE lines, or a list of them with a training: dataset: each")
    return _merged(read(values.pop("like")), values) if "like" in values else values


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two profiles as one, the second stronger; trainings are merged field by field."""
    out = {**below, **above}
    if "training" in below and "training" in above:
        out["training"] = {**below["training"], **above["training"]}
    return out


def _is_notebook(name: str) -> bool:
    return (NOTEBOOKS / f"{name}.ipynb").exists()


def planned(profile: str, names: Sequence[str] = (), overrides: Sequence[tuple[str, str]] = ()) -> list[Planned]:
    """The notebooks whose names begin as given (all if none is), in order but for 00, which reads what the others found.

    Each with the parameters that it declares, typed as their defaults; strict where papermill is lax.
    """
    values, given = read(profile), {}
    for name, text in overrides:
        if name in given:
            raise ValueError(f"parameter {name} is given twice: {given[name]!r} and {text!r}")
        given[name] = _parsed(name, text)
    everything = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: (path.name.startswith("00"), path.name))
    for name in names:
        if not any(path.name.startswith(name) for path in everything):
            raise ValueError(f"unknown notebook {name!r}: choose from {', '.join(sorted(path.stem for path in everything))}")
    declared = {path: defaults(path) for path in everything}
    wanted = [path for path in everything if not names or path.name.startswith(tuple(names))]
    _check_names(profile, values, given, declared, wanted)
    return [
        Planned(path, experiment, _chosen(profile, path, experiment, own, declared[path], values, given))
        for path in wanted
        for experiment, own in _variants(path.stem, values.get(path.stem, {}), given)
    ]


def _check_names(profile: str, values: Mapping, given: Mapping, declared: Mapping[Path, Mapping], wanted: Sequence[Path]) -> None:
    known = sorted({name for own in declared.values() for name in own})
    for name in values:
        if name not in known and not _is_notebook(name):
            raise ValueError(f"profile {profile} sets {name!r}, which no notebook declares: choose from {', '.join(known)}")
    if "profile" in given:
        raise ValueError("the profile is the first argument, not a parameter: ./reproduce.sh smoke")
    here = sorted({name for path in wanted for name in [*declared[path], *(_FIELDS if "training" in declared[path] else ())]})
    for name in given:
        if name not in here:
            near = [other for other in here if other.startswith(name.rstrip("s")) or name.startswith(other.rstrip("s"))]
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown parameter {name!r}{hint}: the notebooks to run declare {', '.join(here)}")


def _variants(notebook: str, own: Mapping | Sequence[Mapping], given: Mapping) -> list[tuple[str, Mapping]]:
    """Name of the results and a notebook's own values, of which a profile may give several, each for a data set."""
    if isinstance(own, Mapping):
        return [(notebook, own)]
    kind = str(given.get("dataset", "")).partition(":")[0]  # the one of that kind: cub200:/in/this/folder
    some = [each for each in own if each["training"]["dataset"] == kind] or (own[:1] if kind else own)
    return [(f"{notebook}_{each['training']['dataset']}", each) for each in some]


def _chosen(profile: str, notebook: Path, experiment: str, own: Mapping, declared: Mapping, values: Mapping, given: Mapping) -> dict[str, Any]:
    if unknown := set(own) - set(declared):
        raise ValueError(f"profile {profile} sets {min(unknown)!r} for {notebook.stem}, which does not declare it")
    direct = {name: value for name, value in given.items() if name in declared}
    fields = {name: value for name, value in given.items() if name in _FIELDS and name not in declared}
    everything = _merged(_merged(_merged(declared, values), own), direct)
    everything |= {"experiment": experiment, "profile": profile}
    out = {name: _typed(name, everything[name], default) for name, default in declared.items()}
    if "training" in declared:
        out["training"] = {**out["training"], **fields}
        checked = config.from_fields({**out["training"], "method": "simclr", "clusters": None})
        out["training"] = {name: getattr(checked, name) if value is not None else None for name, value in out["training"].items()}
        if checked.dataset.partition(":")[0] not in data.DATASETS:
            raise ValueError(f"unknown data set {checked.dataset!r}: choose from {', '.join(data.DATASETS)}")
    return out


_FIELDS = {field.name for field in dataclasses.fields(Pretraining)} - {"method", "clusters", "seed"}


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters that a notebook declares, and their defaults."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def _parsed(name: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"parameter {name} has a value that is neither YAML nor JSON: {text!r}") from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML reads 1e-2 as text
    return value


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the default, and a list's items in the type of the default's first."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is type(default):
        if default and type(value) is list:
            return [_typed(f"{name}[{i}]", item, default[0]) for i, item in enumerate(value)]
        return value
    raise ValueError(f"parameter {name} must be of type {type(default).__name__}, like {default!r}, got {value!r}")


def _fetch(name: str) -> None:
    """Fetch a data set where its progress bar shows, or see that its folder is complete; the notebooks find it there."""
    if not (name in data.cifar.DATASETS and data.found(name)):
        for split in ("train", "test"):
            data.read(name, split)


def _dry_run(todo: Sequence[Planned], profile: str) -> None:
    """Run the notebooks that train something, until they ask for it (Experiment.train then notes what, and raises DryRun)."""
    with tempfile.TemporaryDirectory() as scratch:
        notes = Path(scratch) / "plan"
        notes.touch()
        with _environment(CLSL_FIGURES=scratch, CLSL_DRY_RUN=str(notes)):
            with _kernel() as kernel:
                for each in (each for each in todo if "training" in each.parameters):
                    print(f"planning {each.experiment} …", file=sys.stderr, flush=True)
                    try:
                        _papermill(each, profile, kernel)
                    except papermill.PapermillExecutionError as error:
                        if error.ename != "DryRun":
                            raise _failure(each, error) from None
                    print(plan.shown(each.experiment, notes), flush=True)
                    notes.write_text("")


@contextlib.contextmanager
def _kernel() -> Iterator[AsyncKernelManager]:
    """One kernel for all notebooks, for what a kernel imports takes longer than most notebooks do from records."""
    kernel = AsyncKernelManager(kernel_name="python3")
    run_sync(kernel.start_kernel)(extra_arguments=["--log-level=ERROR"])  # its warnings are none of the reader's
    try:
        yield kernel
    finally:
        run_sync(kernel.shutdown_kernel)(now=True)


def _papermill(each: Planned, profile: str, kernel: AsyncKernelManager) -> None:
    """Run a notebook in a kernel that has forgotten the names and counts of the notebook before."""
    client = kernel.blocking_client()
    client.start_channels()
    client.execute_interactive("import os\n" + f"os.environ.update({_passed_on()!r})\nget_ipython().reset(new_session=True)")
    client.stop_channels()
    papermill.execute_notebook(
        os.path.relpath(each.notebook),
        os.path.relpath(figures.folder(profile) / f"{each.experiment}.ipynb"),
        each.parameters,
        kernel_name="python3",
        progress_bar=False,
        km=kernel,
    )


def _passed_on() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("CLSL_")}


def _failure(each: Planned, error: papermill.PapermillExecutionError) -> RuntimeError:
    return RuntimeError(f"{each.notebook.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}")


class _Clock:
    """Time since the start, and about how long the rest takes, after what each notebook took when it last ran at this profile."""

    def __init__(self, experiments: Sequence[str], profile: str):
        known = {name: made["wall_seconds"] for name, made in report.made_by(profile).items()}
        self.start = self.last = time.time()
        self.left = {name: known.get(name) for name in experiments}

    def done(self, experiment: str) -> float:
        """Seconds since the last notebook was done."""
        self.left.pop(experiment)
        seconds, self.last = time.time() - self.last, time.time()
        return seconds

    def __str__(self) -> str:
        now, rest = time.time(), list(self.left.values())
        said = f"{_minutes(now - self.start)} elapsed"
        if rest and None not in rest:
            said += f", about {_minutes(max(0, rest[0] - (now - self.last)) + sum(rest[1:]))} left"
        return said


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


@contextlib.contextmanager
def _live_line(title: str, clock: _Clock) -> Iterator[None]:
    """One line in the terminal that follows the training in the notebook's kernel (progress.py writes it)."""
    with tempfile.TemporaryDirectory() as scratch, _environment(CLSL_PROGRESS=f"{scratch}/progress"):
        progress = Path(scratch) / "progress"
        progress.touch()
        done = threading.Event()

        def follow() -> None:
            while not done.wait(0.5):
                lines = [line for line in progress.read_text().splitlines() if line.strip()]
                print(f"\r\033[K{' · '.join([title, *lines[-1:], str(clock)])}"[:160], end="", flush=True)

        thread = threading.Thread(target=follow, daemon=True)
        if sys.stdout.isatty():
            thread.start()
        try:
            yield
        finally:
            done.set()
            if thread.is_alive():
                thread.join()
                print("\r\033[K", end="")


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that the notebooks' kernels see, for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _record_provenance(profile: str, experiment: str, command: str, seconds: float) -> None:
    """What made a notebook's figures and tables; a result's own hardware and time stand in its record."""
    made = {"command": command, "wall_seconds": round(seconds), "commit": records.commit(), **records.machine()}
    made_by = dict(sorted((report.made_by(profile) | {experiment: made}).items()))
    (figures.folder(profile) / "provenance.json").write_text(json.dumps(made_by, indent=1) + "\n")
