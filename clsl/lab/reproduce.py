"""The papermill driver: the notebooks in order, at a profile, strict about parameters; then what came out."""

import contextlib
import json
import os
import random
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import papermill
import torch
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync

from .. import ROOT, config
from . import figures, fingerprint, plan, profiles, records, report, runs, site
from .profiles import Planned
from .progress import minutes


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
    todo = profiles.planned(profile, notebooks, overrides)
    if dry_run:
        return _dry_run(todo, profile)
    profiles.check_with_data(todo)
    environment = {}
    if fresh:
        environment = {"CLSL_RECORDS": "", "CLSL_RUNS": os.environ.get("CLSL_RUNS") or str(ROOT / "runs" / f"fresh-{time.time():.0f}")}
    with patch.dict(os.environ, environment):
        before = {path.parent.name for path in runs.folder().glob("*/record.json")}
        _run_all(todo, profile, command)
        if not notebooks:
            _prune(profile)
        _say_where_from(profile, before)
        if (figures.folder(profile) / "claims.csv").exists():
            site.write(profile)
    print(report.closing(profile))


def _run_all(todo: Sequence[Planned], profile: str, command: str) -> None:
    clock = _Clock([each.experiment for each in todo], profile)
    with _kernel() as kernel:
        for i, each in enumerate(todo, 1):
            title = f"[{i}/{len(todo)}] {each.experiment}"
            try:
                with _live_line(title, clock):
                    _papermill(each, profile, kernel)
            except papermill.PapermillExecutionError as error:
                output = report.shown(figures.folder(profile) / f"{each.experiment}.ipynb")
                raise RuntimeError(f"{_failure(each, error)} — see {output}") from None
            seconds = clock.done(each.experiment)
            print(f"{title} · {minutes(seconds)}", flush=True)
            _record_provenance(profile, each.experiment, command, seconds)


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
    with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, CLSL_RUNS=scratch, CLSL_RECORDS=""):
        new = runs.get(chosen).record
    pairs = {name: (value, new["result"].get(name)) for name, value in kept["result"].items() if name != "seconds"}
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


def _dry_run(todo: Sequence[Planned], profile: str) -> None:
    """Run the notebooks that train something, until they ask for it (Experiment.train then notes what, and raises DryRun)."""
    with tempfile.TemporaryDirectory() as scratch:
        notes = Path(scratch) / "plan"
        notes.touch()
        with patch.dict(os.environ, CLSL_FIGURES=scratch, CLSL_DRY_RUN=str(notes)), _kernel() as kernel:
            for each in (each for each in todo if "here.train(" in each.notebook.read_text(encoding="utf-8")):
                print(f"planning {each.experiment} …", file=sys.stderr, flush=True)
                try:
                    _papermill(each, profile, kernel)
                except papermill.PapermillExecutionError as error:
                    if error.ename != "DryRun":
                        raise RuntimeError(_failure(each, error)) from None
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
    ours = {name: value for name, value in os.environ.items() if name.startswith("CLSL_")}
    client.execute_interactive(f"import os\nos.environ.update({ours!r})\nget_ipython().reset(new_session=True)")
    client.stop_channels()
    papermill.execute_notebook(
        os.path.relpath(each.notebook),
        os.path.relpath(figures.folder(profile) / f"{each.experiment}.ipynb"),
        each.parameters,
        kernel_name="python3",
        progress_bar=False,
        km=kernel,
    )


def _failure(each: Planned, error: papermill.PapermillExecutionError) -> str:
    return f"{each.notebook.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"


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
        said = f"{minutes(now - self.start)} elapsed"
        if rest and None not in rest:
            said += f", about {minutes(max(0, rest[0] - (now - self.last)) + sum(rest[1:]))} left"
        return said


@contextlib.contextmanager
def _live_line(title: str, clock: _Clock) -> Iterator[None]:
    """One line in the terminal that follows the training in the notebook's kernel (progress.py writes it)."""
    with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, CLSL_PROGRESS=f"{scratch}/progress"):
        progress = Path(scratch) / "progress"
        progress.touch()
        done = threading.Event()

        def follow() -> None:
            while not done.wait(0.5):
                lines = [line.strip() for line in progress.read_text().splitlines() if line.strip()]
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


def _record_provenance(profile: str, experiment: str, command: str, seconds: float) -> None:
    """What made a notebook's figures and tables; a result's own hardware and time stand in its record."""
    made = {"command": command, "wall_seconds": round(seconds), "commit": records.commit(), **records.machine()}
    made_by = dict(sorted((report.made_by(profile) | {experiment: made}).items()))
    (figures.folder(profile) / "provenance.json").write_text(json.dumps(made_by, indent=1) + "\n")
