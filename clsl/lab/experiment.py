"""What a notebook speaks to: it trains, keeps the table, saves figures and compares for a claim."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from .. import clusters, data, information
from ..config import Pretraining
from . import claims, figures, fingerprint, plan, runs


class DryRun(Exception):
    """Raised instead of training, where only a plan is wanted."""


class Experiment:
    """An experiment of a name, whose results go to figures/<profile>/.

    After `train`, `results` is the tidy table of all its runs (one row a run and seed), and `finished` the runs in order.
    """

    def __init__(self, name: str, profile: str = "scratch"):
        self.name, self.profile = name, profile
        self.results, self.finished, self.verdicts = pd.DataFrame(), [], pd.DataFrame()
        figures.style()

    def images(self, training: Mapping[str, Any], split: str = "train") -> data.Images:
        """The images that trainings with these settings learn from, or are tested on."""
        config = Pretraining(**{**training, "method": "simclr"})
        if os.environ.get("CLSL_DRY_RUN"):
            return plan.stand_in(config.dataset, split)
        return data.load(config.dataset, split, config.train_size if split == "train" else config.test_size, config.image_size)

    def train(self, configs: Sequence[Pretraining], devices: int = 1) -> pd.DataFrame:
        """The tidy table of some configurations, trained where they are missing; kept in results.csv, their records beside it.

        Called again, it adds to the table. Raises ValueError where there is nothing to train, and what runs.get_all raises.
        """
        if not configs:
            raise ValueError(f"{self.name} has nothing to train: give at least one seed")
        if path := os.environ.get("CLSL_DRY_RUN"):
            asked = list(dict.fromkeys(configs))
            plan.note(Path(path), asked, [config for config in asked if runs.find(config) is None], devices)
            raise DryRun(f"{len(configs)} runs asked for")
        found = runs.get_all(list(dict.fromkeys(configs)), devices)
        table = runs.table(found, self.name)
        self.finished += found
        self.results = pd.concat([self.results, table]).drop_duplicates("config", ignore_index=True)
        figures.record(self.results, "results", self.profile, self.name)
        for run in found:
            kept = figures.folder(self.profile) / "records" / f"{fingerprint.name(run.config)}.json"
            kept.parent.mkdir(exist_ok=True)
            if not kept.exists():
                shutil.copyfile(run.path, kept)
        return table

    def keep(self, results: pd.DataFrame) -> None:
        """Keep the encoders of some rows of the table in figures/<profile>/encoders/, in bfloat16, where the weights are at hand."""
        for run in self.finished:
            if fingerprint.name(run.config) in set(results["config"]) and (weights := run.path.with_name("encoder.safetensors")).exists():
                runs.keep_encoder(weights, figures.folder(self.profile) / "encoders" / f"{fingerprint.name(run.config)}.safetensors")

    def save(self, figure: Figure, name: str) -> None:
        """Save a figure as <experiment>_<name>.svg and .png, which know what made them."""
        figures.save(figure, self.name, name, self.profile)

    def compare(self, claim: str, comparison: str, a: pd.DataFrame, b: pd.DataFrame) -> dict:
        """The verdict on "a is more than b", of the top1 in two selections of the tidy table; kept in claims.csv."""
        return self.judge(claim, comparison, claims.by_seed(a), claims.by_seed(b))

    def judge(self, claim: str, comparison: str, a: Mapping[int, float], b: Mapping[int, float]) -> dict:
        """`compare` for numbers by seed."""
        row = claims.judge(self.name, claim, comparison, a, b)
        self.verdicts = pd.concat([self.verdicts, pd.DataFrame([row])], ignore_index=True)
        figures.record(self.verdicts, "claims", self.profile, self.name)
        return row

    def histories(self) -> pd.DataFrame:
        """A row for each epoch of each run, with the run's method, clusters and name; `trained`: the epochs before it."""
        runs = {fingerprint.name(run.config): run for run in self.finished}
        own = {name: dict(config=name, method=run.config.method, clusters=run.config.clusters) for name, run in runs.items()}
        return pd.concat(run.history.assign(trained=lambda rows: rows["epoch"] - 1, **own[name]) for name, run in runs.items())

    def show(self, results: pd.DataFrame | None = None) -> pd.DataFrame:
        """Mean ± standard error over seeds, in words: what was trained, its clusters, and what that was worth."""
        return figures.table(self.results if results is None else results)

    def show_verdicts(self) -> pd.DataFrame:
        """The comparisons so far, in words."""
        return figures.verdicts(self.verdicts)


def chosen(results: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows of a tidy table with these values in its columns: chosen(results, method="cl_infonce", level=4)."""
    for column, value in values.items():
        results = results[results[column] == value]
    return results


def bits(images: data.Images, specs: Sequence[str]) -> pd.DataFrame:
    """What some clusters, as clusters.make names them, know of the images' labels: a row each, in bits."""
    rows, t = {}, images.labels
    for spec in specs:
        z = clusters.make(spec, images)
        i, h = information.mutual_information(z, t), information.conditional_entropy(z, given=t)
        rows[spec] = {"clusters": len(z.unique()), "I(Z;T)": i, "H(Z|T)": h, "H(Z)": information.entropy(z)}
    return pd.DataFrame(rows.values(), pd.Index(rows, name="clusters Z"))


def configurations(training: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Pretraining]:
    """Every method with every seed, each with the settings common to all trainings and its own."""
    return [Pretraining(**{**training, **method, "seed": seed}) for seed in seeds for method in methods]
