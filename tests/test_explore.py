"""Pictures to play with: they are right, they move, and they leave a still picture behind."""

import dataclasses

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from clsl import wordnet
from clsl.lab import explore, figures
from clsl.losses import cl_infonce


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as bundles; and no driver is following."""
    bundles = []
    monkeypatch.setattr(explore, "display", lambda bundle, raw: bundles.append(bundle))
    monkeypatch.delenv("CLSL_PROGRESS", raising=False)
    return bundles


def widgets_of(bundle) -> list[ipywidgets.Widget]:
    model = bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    return ipywidgets.widgets.widget._instances[model].children


@pytest.mark.parametrize("temperature", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("clusters", [1, 3, 8])
def test_the_circle_has_the_loss_of_the_library(clusters, temperature):
    z = np.repeat(np.arange(clusters), 4)
    angles = 2 * np.pi * np.random.default_rng(0).random(len(z))
    torch_angles = torch.tensor(angles, requires_grad=True)
    points = torch.stack([torch_angles.cos(), torch_angles.sin()], dim=1)
    loss = cl_infonce(points[::2], points[1::2], torch.tensor(z[::2]), temperature)
    loss.backward()
    mine, gradient = explore.on_circle(angles, z, temperature)
    assert mine == pytest.approx(loss.item(), rel=1e-6)
    assert np.abs(gradient - torch_angles.grad.numpy()).max() < 1e-6


def test_on_the_circle_clusters_come_together():
    figure, said = explore.circle(clusters=3, temperature=0.5, steps=300)
    ended = np.asarray(figure.axes[1].collections[0].get_offsets()).reshape(3, 4, 2)
    centres = ended.mean(axis=1)
    assert np.abs(ended - centres[:, None]).max() < 0.05  # each cluster is a point
    assert (centres @ centres.T)[~np.eye(3, dtype=bool)] == pytest.approx(-0.5, abs=0.05)  # at 120 degrees
    assert said.startswith("loss ") and said.endswith("after 300 steps")
    assert len(figure.axes[2].lines[0].get_ydata()) == 301
    plt.close(figure)


def draw(n: int, share: float, word: str):
    if n == 5:
        raise ValueError("five is not allowed")
    figure, ax = plt.subplots(figsize=(n, 1))
    return figure, f"{n} {share:.1f} {word} <b>"


def test_a_moved_slider_changes_picture_and_text(shown):
    open_figures = plt.get_fignums()
    explore.live(draw, n=(3, 1, 8), share=(0.5, 0.1, 10.0), word=("b", ["a", "b"]))
    n, share, word, picture, text = widgets_of(shown[0])
    assert (n.min, n.max, n.value) == (1, 8, 3) and (share.min, share.max) == (-1, 1) and word.options == ("a", "b")
    before = bytes(picture.value)
    assert "3 0.5 b &lt;b&gt;" in text.value and before.startswith(b"\x89PNG")
    n.value = 4
    assert bytes(picture.value) != before and "4 0.5 b" in text.value
    share.value, word.value = 10, "a"
    assert "4 10.0 a" in text.value
    n.value = 5
    assert "five is not allowed" in text.value
    assert plt.get_fignums() == open_figures


def test_a_still_picture_is_left_behind(shown, monkeypatch):
    explore.live(draw, n=(3, 1, 8), share=(0.5, 0.1, 10.0), word=("b", ["a", "b"]))
    monkeypatch.setenv("CLSL_PROGRESS", "followed by the papermill driver")
    explore.live(draw, n=(3, 1, 8), share=(0.5, 0.1, 10.0), word=("b", ["a", "b"]))
    moving, still = shown
    assert set(still) == {"image/png", "text/plain"} and still.items() <= moving.items()


def test_a_level_says_what_it_knows_and_what_was_measured(noise):
    synsets = tuple(wordnet.synset(name) for name in ("dog.n.01", "cat.n.01", "truck.n.01", "ship.n.01"))
    noise = dataclasses.replace(noise, labels=torch.arange(len(noise)) % 4, class_names=("dog", "cat", "truck", "ship"), synsets=synsets)
    results = pd.DataFrame({"level": [8, 8, None], "method": ["cl_infonce"] * 2 + ["simclr"], "top1": [40.0, 42.0, 30.0]})
    figure, said = explore.level(noise, results)(8)
    lines = said.splitlines()
    assert "clusters, I(Z;T) = " in lines[0] and lines[0].endswith("H(Z|T) = 0.00 bits") and lines[1] == "Cl-InfoNCE: 41.0 ± 1.0 %"
    other, said = explore.level(noise, results)(4)
    assert "no training of this profile is at this level" in said and said != lines
    plt.close(figure), plt.close(other)


def test_for_a_lecture_room_letters_are_larger():
    figures.style("talk")
    large = plt.rcParams["axes.labelsize"]
    figures.style()
    assert large > 1.3 * plt.rcParams["axes.labelsize"]
