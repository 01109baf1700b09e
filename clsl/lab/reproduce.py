"""The notebooks in order, at a profile, through papermill; then the table, the verdicts and where everything lies."""

import ast
import contextlib
import json
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
import yaml

from . import ROOT, downloads, figures, provenance, report

NOTEBOOKS = ROOT / "notebooks"


def reproduce(
    profile: str, notebooks: Sequence[str] = (), overrides: Mapping[str, str] | None = None, dry_run: bool = False
) -> None:
    """Run the notebooks (all, or those whose names begin as given) at a profile and print what came out.

    overrides: parameter → value as text, stronger than the profile. dry_run: run each notebook up to its trainings only,
    into a temporary folder, and list them with their estimated cost, with stand-ins for images that are not there. Raises ValueError, before anything runs, for an
    unknown profile, notebook or parameter or a value of another type than the parameter's default, and RuntimeError
    where a cell fails, with its error and the path of the executed notebook.
    """
    options = [word for pair in (overrides or {}).items() for word in ("-p", *pair)]
    command = shlex.join(["./reproduce.sh", profile, *notebooks, *options])
    overrides = {name: _parsed(name, text) for name, text in (overrides or {}).items()}
    planned = _parameters(_chosen(notebooks), profile, _read(profile), overrides)
    if dry_run:
        return _dry_run(planned, profile)
    for name in dict.fromkeys(given["dataset"] for _, _, given in planned if "dataset" in given):
        _fetch(name)
    for i, (notebook, experiment, chosen) in enumerate(planned, 1):
        seconds = _execute(notebook, experiment, chosen, profile, f"[{i}/{len(planned)}] {experiment}")
        _record_provenance(profile, experiment, command, seconds)
    report.write(profile)
    print(report.closing(profile))


def profiles() -> list[str]:
    """The names of the profiles, from the quickest."""
    found = [path.stem for path in (NOTEBOOKS / "profiles").glob("*.yml")]
    order = ["smoke", "quick", "cpu", "gpu", "paper"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def profile_values(name: str) -> dict[str, Any]:
    """Parameter → value of a profile for all notebooks. Raises ValueError for an unknown or a broken one."""
    return {key: value for key, value in _read(name).items() if not _is_notebook(key)}


def _read(profile: str) -> dict[str, Any]:
    """A profile: values for all notebooks, and under a notebook's name its own, or a list of them, to run it once for each."""
    path = NOTEBOOKS / "profiles" / f"{profile}.yml"
    if not path.exists():
        raise ValueError(f"unknown profile {profile!r}: choose from {', '.join(profiles())}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"profile {profile} is not a list of NAME: VALUE lines in YAML: compare {NOTEBOOKS / 'profiles'}")
    for name, own in values.items():
        each = own if isinstance(own, list) else [{"dataset": None, **own}] if isinstance(own, dict) else [None]
        if _is_notebook(name) and not all(isinstance(one, dict) and "dataset" in one for one in each):
            raise ValueError(f"profile {profile}: {name} needs NAME: VALUE lines, or a list of them with a dataset each")
    return values


def _is_notebook(name: str) -> bool:
    return (NOTEBOOKS / f"{name}.ipynb").exists()


def _chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks whose names begin as given, in order but for 00, which reads what the others found; all if none is given."""
    everything = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: (path.name.startswith("00"), path.name))
    for name in names:
        if not any(path.name.startswith(name) for path in everything):
            raise ValueError(f"unknown notebook {name!r}: choose from {', '.join(sorted(path.stem for path in everything))}")
    return [path for path in everything if not names or path.name.startswith(tuple(names))]


def _parameters(notebooks, profile: str, values: Mapping, overrides: Mapping) -> list[tuple[Path, str, dict[str, Any]]]:
    """Notebook, name of its results, and the parameters it declares, typed as their defaults; strict where papermill is lax."""
    declared = {path: _defaults(path) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    known = sorted({name for defaults in declared.values() for name in defaults})
    for name in values:
        if name not in known and not _is_notebook(name):
            raise ValueError(f"profile {profile} sets {name!r}, which no notebook declares: choose from {', '.join(known)}")
    for name in overrides:
        if not any(name in declared[path] for path in notebooks):
            here = sorted({name for path in notebooks for name in declared[path]})
            raise ValueError(f"unknown parameter {name!r}: the notebooks to run declare {', '.join(here)}")
    if "profile" in overrides:
        raise ValueError("the profile is the first argument, not a parameter: ./reproduce.sh smoke")
    return [
        (path, experiment, _chosen_values(profile, path, experiment, own, declared[path], values, overrides))
        for path in notebooks
        for experiment, own in _variants(path.stem, values.get(path.stem, {}), overrides)
    ]


def _variants(notebook: str, own: Mapping | Sequence[Mapping], overrides: Mapping) -> list[tuple[str, Mapping]]:
    """Name of the results and a notebook's own values, of which a profile may give several, each for a data set."""
    if isinstance(own, Mapping):
        return [(notebook, own)]
    kind = str(overrides.get("dataset", "")).partition(":")[0]  # the one of that kind: cub200:/where/it/is
    chosen = [each for each in own if each["dataset"] == kind] or (own[:1] if kind else own)
    return [(f"{notebook}_{each['dataset']}", each) for each in chosen]


def _chosen_values(profile, notebook, experiment, own, declared, values, overrides) -> dict[str, Any]:
    if unknown := set(own) - set(declared):
        raise ValueError(f"profile {profile} sets {min(unknown)!r} for {notebook.stem}, which does not declare it")
    given = {**values, **own, "experiment": experiment, **overrides, "profile": profile}
    if "more" in given:  # a notebook's own beside those of all
        given["more"] = {**values.get("more", {}), **own.get("more", {}), **overrides.get("more", {})}
    return {name: _typed(name, given[name], default) for name, default in declared.items() if name in given}


def _defaults(notebook: Path) -> dict[str, Any]:
    inspected = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(entry["default"]) for name, entry in inspected.items()}


def _parsed(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"parameter {name} has a value that is neither YAML nor JSON: {text!r}") from None


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the default, and a list's items in the type of the default's first."""
    if isinstance(default, float) and type(value) in (int, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML reads 1e-2 as text
    if type(value) is type(default):
        return (
            [_typed(f"{name}[{i}]", item, default[0]) for i, item in enumerate(value)]
            if default and type(value) is list
            else value
        )
    raise ValueError(f"parameter {name} must be of type {type(default).__name__}, like {default!r}, got {value!r}")


def _fetch(name: str) -> None:
    """Fetch a data set where its progress bar shows, or see that its folder is complete; the notebooks find it there."""
    if not (name.startswith("cifar") and (downloads.folder() / name).exists()):
        from . import data  # here: torch takes seconds, which the first notebook need not wait for

        for split in ("train", "test"):
            data.listed(name, split) if name.partition(":")[0] in data.LAYOUTS else data.load(name, split)


def _dry_run(planned: Sequence[tuple[Path, str, Mapping[str, Any]]], profile: str) -> None:
    """Run the notebooks that train something, until they ask for it (runs.get_all then notes what, and raises DryRun)."""
    with tempfile.TemporaryDirectory() as scratch:
        notes = Path(scratch) / "plan"
        notes.touch()
        with _environment(CLSL_FIGURES=scratch, CLSL_DRY_RUN=str(notes)):
            for notebook, experiment, chosen in planned:
                if "epochs" in chosen:
                    print(f"planning {experiment} …", file=sys.stderr, flush=True)
                    try:
                        _papermill(notebook, experiment, chosen, profile)
                    except papermill.PapermillExecutionError as error:
                        if error.ename != "DryRun":
                            raise _failure(notebook, error) from None
                    print(report.planned(experiment, notes), flush=True)
                    notes.write_text("")


def _execute(notebook: Path, experiment: str, parameters: Mapping[str, Any], profile: str, title: str) -> float:
    start = time.time()
    with _live_line(title):
        try:
            _papermill(notebook, experiment, parameters, profile)
        except papermill.PapermillExecutionError as error:
            output = report.shown(figures.folder(profile) / f"{experiment}.ipynb")
            raise RuntimeError(f"{_failure(notebook, error)} — see {output}") from None
    seconds = time.time() - start
    print(f"{title} · {int(seconds) // 60}:{int(seconds) % 60:02d} min", flush=True)
    return seconds


def _papermill(notebook: Path, experiment: str, parameters: Mapping[str, Any], profile: str) -> None:
    papermill.execute_notebook(
        os.path.relpath(notebook),
        os.path.relpath(figures.folder(profile) / f"{experiment}.ipynb"),
        parameters,
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--log-level=ERROR"],  # the kernel's warnings are none of the reader's
    )


def _failure(notebook: Path, error: papermill.PapermillExecutionError) -> RuntimeError:
    return RuntimeError(f"{notebook.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}")


@contextlib.contextmanager
def _live_line(title: str) -> Iterator[None]:
    """One line in the terminal that follows the training in the notebook's kernel (runs.get_all writes it)."""
    with tempfile.TemporaryDirectory() as scratch, _environment(CLSL_PROGRESS=f"{scratch}/progress"):
        progress = Path(scratch) / "progress"
        progress.touch()
        done = threading.Event()

        def follow() -> None:
            while not done.wait(0.5):
                lines = progress.read_text().split("\n")  # reading turns tqdm's carriage returns into these
                last = next((line for line in reversed(lines) if line.strip()), "")
                print(f"\r\033[K{title} · {last.strip()}"[:160], end="", flush=True)

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


def _record_provenance(profile: str, notebook: str, command: str, seconds: float) -> None:
    """What made a notebook's figures and tables; a result's own hardware and time stand in results.csv."""
    record = {"command": command, "wall_seconds": round(seconds), "commit": provenance.commit(), **provenance.machine()}
    made_by = dict(sorted((report.made_by(profile) | {notebook: record}).items()))
    (figures.folder(profile) / "provenance.json").write_text(json.dumps(made_by, indent=1) + "\n")
