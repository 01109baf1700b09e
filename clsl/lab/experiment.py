"""What a notebook speaks to: it trains, keeps the table, saves figures and compares for a claim."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from torch import nn

from .. import clusters, data, information
from ..config import Pretraining
from . import claims, figures, fingerprint, plan, runs
from .claims import chosen


_TABLE = "±: standard error over seeds; companions: other images of its cluster that an image meets in its batch."
_VERDICTS = "Means are over all seeds of all notebooks. Verdicts are corrected for all comparisons of a claim: an interval that just misses 0 stays unknown."


class DryRun(Exception):
    """Raised instead of training, where only a plan is wanted."""


class Experiment:
    """An experiment of a name, whose results go to figures/<profile>/.

    After `train`, `results` is the tidy table of all its runs (one row a run and seed), and `finished` the runs by their names.
    """

    def __init__(self, name: str, profile: str = "scratch"):
        self.name, self.profile = name, profile
        self.results, self.finished, self.verdicts = pd.DataFrame(), {}, pd.DataFrame()
        figures.style()

    def images(self, training: Mapping[str, Any], split: str = "train") -> data.Images:
        """The images that trainings with these settings learn from, or are tested on."""
        config = Pretraining(**{**training, "method": "simclr"})
        if os.environ.get("CLSL_DRY_RUN"):
            return plan.stand_in(config.dataset, split)
        return data.load(config.dataset, split, config.train_size if split == "train" else config.test_size, config.image_size)

    def train(self, configs: Sequence[Pretraining], devices: int = 1, **parts: Sequence[Pretraining]) -> pd.DataFrame:
        """The tidy table of some configurations, trained where they are missing; kept in results.csv, their records beside it.

        parts: further configurations, by the name of the part of the experiment that they belong to (column `part`; that of
        `configs` is "main"). Called again, it adds to the table. Raises ValueError where there is nothing to train, or, in the
        reference, less than claims.yml wants to compare; and what runs.get_all raises.
        """
        parts = {name: list(dict.fromkeys(some)) for name, some in {"main": configs, **parts}.items() if some}
        everything = list(dict.fromkeys(config for some in parts.values() for config in some))
        if not everything:
            raise ValueError(f"{self.name} has nothing to train: give at least one seed")
        if self.profile == claims.REFERENCE:
            claims.check_registered(self.name, pd.concat(runs.asked(some).assign(part=name) for name, some in parts.items()))
        if path := os.environ.get("CLSL_DRY_RUN"):
            plan.note(Path(path), everything, [config for config in everything if runs.find(config) is None], devices)
            raise DryRun(f"{len(everything)} runs asked for")
        found = dict(zip(everything, runs.get_all(everything, devices)))
        tables = {name: runs.table([found[config] for config in some], self.name) for name, some in parts.items()}
        table = pd.concat(rows.assign(part=name) for name, rows in tables.items())
        self.results = pd.concat([self.results, table]).drop_duplicates(["config", "part"], ignore_index=True)
        figures.record(self.results, "results", self.profile, self.name)
        self.finished |= {fingerprint.name(config): run for config, run in found.items()}
        records = figures.folder(self.profile) / "records"
        records.mkdir(exist_ok=True)
        for name, run in self.finished.items():
            if not (records / f"{name}.json").exists():
                shutil.copyfile(run.path, records / f"{name}.json")
        return table.reset_index(drop=True)

    def keep(self, results: pd.DataFrame) -> None:
        """Keep the encoders of some rows of the table in figures/<profile>/encoders/, in bfloat16, where the weights are at hand."""
        for name in results["config"].unique():
            weights = self.finished[name].path.with_name("encoder.safetensors")
            if weights.exists():
                runs.keep_encoder(weights, figures.folder(self.profile) / "encoders" / f"{name}.safetensors")

    def networks(self, results: pd.DataFrame) -> dict[str, nn.Module]:
        """The trained encoders of some rows of the table, by method and clusters in words; {} where only records are at hand."""
        rows = zip(results["method"], results["clusters"].replace(["instances", "labels"], ""), results["config"])
        try:
            return {f"{figures.NAMES[method]} {spec}".strip(): self.finished[name].encoder() for method, spec, name in rows}
        except OSError:
            return {}

    def save(self, figure: Figure, name: str) -> None:
        """Save a figure as <experiment>_<name>.svg and .png, which know what made them."""
        figures.save(figure, self.name, name, self.profile)

    def compare(self, claim: str, words: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
        """The verdict on "a is more than b", of the top1 in two selections of the table, {column: value}; as claims.named reads them."""
        return self._judged([{"claim": claim, "words": words, "a": a, "b": b}], "main")

    def judge(self) -> pd.DataFrame:
        """The comparisons that notebooks/claims.yml names for this experiment, with intervals and verdicts; kept in claims.csv."""
        for part, comparisons in claims.registered(self.name, self.profile).items():
            self._judged(comparisons, part)
        return self.verdicts

    def show_verdicts(self) -> Styler:
        """The comparisons so far, in words; a comparison that another notebook has made of the same trainings is shown there."""
        if self.verdicts.empty:
            return figures.shown(pd.DataFrame())
        everything = pd.read_csv(figures.folder(self.profile) / "claims.csv")
        mine = everything[everything["claim"].isin(self.verdicts["claim"])]
        said = [f"{claim} {claims.answer(rows)} ({claims.counted(rows)[claim]})" for claim, rows in mine.groupby("claim")]
        return figures.shown(figures.verdicts(self.verdicts), f"All notebooks so far: {'; '.join(said)}. {_VERDICTS}")

    def _judged(self, comparisons: Sequence[Mapping[str, Any]], part: str) -> pd.DataFrame:
        rows = claims.named(chosen(self.results, part=part), comparisons).assign(experiment=self.name)
        asked = pd.concat([self.verdicts, rows])[list(rows)].drop_duplicates(["claim", "comparison"], keep="last")
        everything = pd.read_csv(figures.folder(self.profile) / "results.csv")
        table = figures.record(asked, "claims", self.profile, self.name, lambda rows: claims.judged(rows, everything))
        self.verdicts = chosen(table, experiment=self.name)
        return self.verdicts.merge(rows[["claim", "comparison"]])

    def recognised(self, **values: Any) -> np.ndarray:
        """Whether each test image was recognised, bool [seeds, M], in the runs of the main part that have these values."""
        names = set(chosen(self.results, part="main", **values)["config"])
        return np.stack([runs.recognised(run) for name, run in self.finished.items() if name in names])

    def histories(self) -> pd.DataFrame:
        """A row for each epoch of each run, with the run's method, clusters and name; `trained`: the epochs before it."""
        rows = [
            run.history.assign(config=name, method=run.config.method, clusters=run.config.clusters)
            for name, run in self.finished.items()
        ]
        return pd.concat(rows).assign(trained=lambda table: table["epoch"] - 1)

    def show(self, results: pd.DataFrame | None = None) -> Styler:
        """Mean ± standard error over seeds, in words: what was trained, its clusters, and what that was worth."""
        return figures.shown(figures.table(self.results if results is None else results), _TABLE)


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
