"""Pictures to play with: they are right, they move, and they leave a still picture behind."""

import dataclasses

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from nbclient import NotebookClient

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
    lines = ["from clsl.lab import figures", "import matplotlib.pyplot as plt", 'figures.style("talk")', "plt.plot([1, 2]);"]
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    NotebookClient(nbformat.v4.new_notebook(cells=[cell])).execute()
    assert set(cell.outputs[-1].data) >= {"image/svg+xml"}, "and figures are sharp at any size"


def test_neighbours_are_the_nearest_and_not_the_image_itself(noise):
    t = noise.labels
    right, wrong = torch.eye(4)[t], torch.eye(4)[torch.arange(len(t)) % 2]
    right[0] *= -1  # the opposite of its class: no neighbour of its own is near
    figure, said = explore.neighbours({"right": right, "wrong": wrong}, noise, t // 2, n=5)(1)
    assert figure.get_suptitle() == noise.class_names[t[1]] and len(figure.axes) == 2 * 6
    assert said.splitlines()[1] == "5 and 5 of 5  right"
    frames = [ax.spines["top"].get_edgecolor() for ax in figure.axes[7:]]  # of the wrong ones
    assert said.splitlines()[2] == f"{frames.count(to_rgba('#009e73'))} and {5 - frames.count(to_rgba('#d55e00'))} of 5  wrong"
    _, alone = explore.neighbours({"right": right}, noise, t // 2, n=5)(0)
    assert alone.splitlines()[1].startswith("0 and ")
    plt.close("all")


def test_maps_keep_groups_apart(noise):
    z = torch.arange(len(noise)) % 2
    far = torch.randn(len(noise), 8, generator=torch.Generator().manual_seed(0)) + 20 * torch.eye(8)[z]
    figure = explore.maps({"one": far, "other": far}, {"clusters": z, "classes": noise.labels})
    assert [ax.get_title() for ax in figure.axes[:2]] == ["one", "other"] and len(figure.axes) == 4
    everything, *groups = figure.axes[0].collections
    assert len(everything.get_offsets()) == len(noise) and len(groups) == 2
    centres = [np.mean(group.get_offsets(), axis=0) for group in groups]
    spread = max(np.std(group.get_offsets(), axis=0).max() for group in groups)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    plt.close(figure)


def test_alignment_and_uniformity_of_known_networks(noise):
    one_place = explore.shape(lambda views: torch.ones(len(views), 2), noise)
    assert one_place == pytest.approx({"alignment": 0, "uniformity": 0}, abs=1e-6)

    def two_places(views):  # the first views in turn here and there, the second ones at the other place
        n = len(views) // 2
        side = torch.arange(n) % 2
        return torch.eye(2)[torch.cat([side, 1 - side])]

    n = len(noise)
    apart = (n / 2) ** 2 / (n * (n - 1) / 2)  # share of pairs at two places, whose squared distance is 2
    expected = {"alignment": 2.0, "uniformity": np.log(1 - apart + apart * np.exp(-4))}
    assert explore.shape(two_places, noise) == pytest.approx(expected, abs=1e-5)


def test_a_clustering_of_the_map_says_what_was_measured_and_foretold(noise):
    points = pd.DataFrame(
        {"i_zt": [2.0, 1.0], "h_z_given_t": [0.0, 0.5], "cl_infonce": [40.0, 30.0], "cross_entropy": [np.nan, 31.0]},
        index=["labels", "attributes:k=2"],
    )
    draw = explore.clustering(noise, points, pd.Series({"attributes:k=2": 29.0}))
    _, said = draw("attributes:k=2")
    assert said.startswith("attributes:k=2: measured Cl-InfoNCE 30.0 %, cross-entropy 31.0 %; foretold") and said.endswith("29.0 %")
    assert draw("labels")[1] == "labels: measured Cl-InfoNCE 40.0 %"
    plt.close("all")
