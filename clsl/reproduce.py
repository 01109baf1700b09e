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
    into a temporary folder, and say how many there would be. Raises ValueError, before anything runs, for an
    unknown profile, notebook or parameter or a value of another type than the parameter's default, and RuntimeError
    where a cell fails, with its error and the path of the executed notebook.
    """
    options = [word for pair in (overrides or {}).items() for word in ("-p", *pair)]
    command = shlex.join(["./reproduce.sh", profile, *notebooks, *options])
    overrides = {name: _parsed(name, text) for name, text in (overrides or {}).items()}
    values = profile_values(profile)
    parameters = _parameters(_chosen(notebooks), profile, values, overrides)
    for name in {given["dataset"] for given in parameters.values() if "dataset" in given}:
        _fetch(name)
    if dry_run:
        return _dry_run(parameters, profile)
    for i, (notebook, chosen) in enumerate(parameters.items(), 1):
        seconds = _execute(notebook, chosen, profile, f"[{i}/{len(parameters)}] {notebook.stem}")
        _record_provenance(profile, notebook.stem, command, seconds)
    report.write(profile)
    print(report.closing(profile))


def profiles() -> list[str]:
    """The names of the profiles, from the quickest."""
    found = [path.stem for path in (NOTEBOOKS / "profiles").glob("*.yml")]
    order = ["smoke", "quick", "cpu", "gpu", "paper"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def profile_values(name: str) -> dict[str, Any]:
    """Parameter → value of a profile. Raises ValueError for an unknown or a broken one."""
    path = NOTEBOOKS / "profiles" / f"{name}.yml"
    if not path.exists():
        raise ValueError(f"unknown profile {name!r}: choose from {', '.join(profiles())}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"profile {name} is not a list of NAME: VALUE lines in YAML: compare {NOTEBOOKS / 'profiles'}")
    return values


def _chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks whose names begin as given, in order but for 00, which reads what the others found; all if none is given."""
    everything = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: (path.name.startswith("00"), path.name))
    for name in names:
        if not any(path.name.startswith(name) for path in everything):
            raise ValueError(f"unknown notebook {name!r}: choose from {', '.join(sorted(path.stem for path in everything))}")
    return [path for path in everything if not names or path.name.startswith(tuple(names))]


def _parameters(notebooks, profile: str, values: Mapping, overrides: Mapping) -> dict[Path, dict[str, Any]]:
    """For each notebook the parameters it declares, in the types of their defaults; strict where papermill is lax."""
    declared = {path: _defaults(path) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    known = sorted({name for defaults in declared.values() for name in defaults})
    for name in values:
        if name not in known:
            raise ValueError(f"profile {profile} sets {name!r}, which no notebook declares: choose from {', '.join(known)}")
    for name in overrides:
        if not any(name in declared[path] for path in notebooks):
            here = sorted({name for path in notebooks for name in declared[path]})
            raise ValueError(f"unknown parameter {name!r}: the notebooks to run declare {', '.join(here)}")
    if "profile" in overrides:
        raise ValueError("the profile is the first argument, not a parameter: ./reproduce.sh smoke")
    given = {**values, **overrides, "profile": profile}
    return {
        path: {name: _typed(name, given[name], default) for name, default in declared[path].items() if name in given}
        for path in notebooks
    }


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
    """Fetch a data set where its progress bar shows; the notebooks find it in the cache."""
    if not (downloads.folder() / name).exists():
        from . import data  # here: torch takes seconds, which the first notebook need not wait for

        data.load(name, "train")


def _dry_run(parameters: Mapping[Path, Mapping[str, Any]], profile: str) -> None:
    """Run the notebooks that train something, until they ask for it (runs.get_all then raises DryRun)."""
    with tempfile.TemporaryDirectory() as scratch, _environment(CLSL_FIGURES=scratch, CLSL_DRY_RUN="1"):
        for notebook, chosen in parameters.items():
            if "epochs" in chosen:
                try:
                    _papermill(notebook, chosen, profile)
                except papermill.PapermillExecutionError as error:
                    if error.ename != "DryRun":
                        raise _failure(notebook, error) from None
                    print(f"{notebook.stem} · {error.evalue}", flush=True)


def _execute(notebook: Path, parameters: Mapping[str, Any], profile: str, title: str) -> float:
    start = time.time()
    with _live_line(title):
        try:
            _papermill(notebook, parameters, profile)
        except papermill.PapermillExecutionError as error:
            output = report.shown(figures.folder(profile) / notebook.name)
            raise RuntimeError(f"{_failure(notebook, error)} — see {output}") from None
    seconds = time.time() - start
    print(f"{title} · {int(seconds) // 60}:{int(seconds) % 60:02d} min", flush=True)
    return seconds


def _papermill(notebook: Path, parameters: Mapping[str, Any], profile: str) -> None:
    papermill.execute_notebook(
        os.path.relpath(notebook),
        os.path.relpath(figures.folder(profile) / notebook.name),
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
