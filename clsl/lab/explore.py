"""Pictures to play with, controls above and a still picture wherever nothing runs; and pictures of what networks learned."""

import base64
import html
import io
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib.figure import Figure
from torch import nn

from .. import augment, clusters, information
from ..data import Images
from ..wordnet import Hierarchy
from . import figures

Drawn = tuple[Figure, str]  # and a text below it


def live(draw: Callable[..., Drawn], **controls: tuple) -> None:
    """Show draw(**values) below a slider for each value: (first, least, most), or (first, [choices]); numbers that are no whole ones by ratio.

    What is wrong with a value is said in the picture's place. Run by papermill, and wherever no kernel runs, the first picture stands.
    """
    picture, text = _rendered(draw, {name: choices[0] for name, choices in controls.items()})
    still = {"image/png": base64.b64encode(picture).decode(), "text/plain": text}
    if "CLSL_PROGRESS" in os.environ:  # the papermill driver is following, and nobody moves anything
        return display(still, raw=True)
    handles = {name: _control(name, choices) for name, choices in controls.items()}
    shown, below = ipywidgets.Image(value=picture), ipywidgets.HTML(_pre(text))

    def update(change) -> None:
        picture, text = _rendered(draw, {name: handle.value for name, handle in handles.items()})
        shown.value, below.value = picture, _pre(text)

    for handle in handles.values():
        handle.observe(update, "value")
    box = ipywidgets.VBox([*handles.values(), shown, below])
    display(box._repr_mimebundle_() | still, raw=True)


def _control(name: str, choices: tuple) -> ipywidgets.Widget:
    value, low, *high = choices
    words = dict(value=value, description=name, style={"description_width": "9em"}, layout={"width": "32em"})
    if isinstance(low, list):
        return ipywidgets.SelectionSlider(options=low, **words)
    if isinstance(value, int):
        return ipywidgets.IntSlider(min=low, max=high[0], **words)
    return ipywidgets.FloatLogSlider(min=math.log10(low), max=math.log10(high[0]), **words)


def _rendered(draw: Callable[..., Drawn], values: Mapping[str, Any]) -> tuple[bytes, str]:
    """The picture as PNG, and the text below it."""
    try:
        figure, text = draw(**values)
    except (ValueError, OSError) as error:
        figure, text = plt.figure(figsize=(6, 1)), f"{error}"
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    return content.getvalue(), text


def _pre(text: str) -> str:
    return f"<pre style='line-height: 1.3'>{html.escape(text)}</pre>"


def circle(clusters: int = 3, temperature: float = 0.5, steps: int = 300, seed: int = 0) -> Drawn:
    """Two images of each cluster, twice seen, on a circle: where the loss sends them at first, where some steps end, and the loss."""
    z = np.repeat(np.arange(clusters), 4)
    start = 2 * np.pi * np.random.default_rng(seed).random(len(z))
    loss, gradient = on_circle(start, z, temperature)
    angles, losses, push = start, [loss], -gradient  # the push at the start is drawn
    for _ in range(steps):
        angles = angles - 0.5 * gradient
        loss, gradient = on_circle(angles, z, temperature)
        losses.append(loss)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), width_ratios=[1, 1, 1.2], layout="none")
    figure.subplots_adjust(0.01, 0.16, 0.99, 0.9, wspace=0.3)
    for ax, angle, title in zip(axes, (start, angles), ("before", f"after {steps} steps")):
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.8"))
        ax.scatter(np.cos(angle), np.sin(angle), 60, z, cmap="tab10", vmin=0, vmax=9, alpha=0.8)
        ax.set(title=title, aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
        ax.axis("off")
    arrows = -np.sin(start) * push, np.cos(start) * push
    longest = dict(scale_units="xy", scale=max(np.abs(push).max(), 1e-9) / 0.6)
    axes[0].quiver(np.cos(start), np.sin(start), *arrows, angles="xy", width=0.008, color="0.4", **longest)
    axes[2].plot(losses, color=figures.COLOURS["cl_infonce"])
    axes[2].set(xlabel="step of gradient descent", ylabel="Cl-InfoNCE (nats)", title="the loss")
    return figure, f"loss {losses[0]:.2f} at first, {losses[-1]:.2f} after {steps} steps"


def on_circle(angles: np.ndarray, z: np.ndarray, temperature: float) -> tuple[float, np.ndarray]:
    """Cl-InfoNCE of the views at some angles, [n] in radians, of the clusters z [n], in nats; and its gradient, [n]. Every cluster has two views."""
    apart = angles[:, None] - angles
    e = np.exp((np.cos(apart) - 1) / temperature)
    np.fill_diagonal(e, 0)
    positive = (z[:, None] == z) & ~np.eye(len(z), dtype=bool)
    target = positive / positive.sum(1, keepdims=True)
    guess = e / e.sum(1, keepdims=True)
    loss = -(target * ((np.cos(apart) - 1) / temperature - np.log(e.sum(1, keepdims=True)))).sum(1).mean()
    wrong = (guess - target) / (len(z) * temperature)  # of the similarities
    return loss, -((wrong + wrong.T) * np.sin(apart)).sum(1)


def level(images: Images, results: pd.DataFrame) -> Callable[[int], Drawn]:
    """For a level of WordNet: images of each cluster; below them the tree, what the clusters know, and what was measured there."""
    hierarchy = Hierarchy(images.synsets)

    def draw(level: int) -> Drawn:
        z = clusters.from_wordnet(images.synsets, images.labels, level)
        names = sorted({synset.name() for synset in hierarchy.at(level)})
        titles = [name.split(".")[0].replace("_", " ") for name in names[:12]]
        i, h = information.mutual_information(z, images.labels), information.conditional_entropy(z, given=images.labels)
        lines = [f"{len(names)} clusters, I(Z;T) = {i:.2f} bits, H(Z|T) = {h:.2f} bits"]
        for method, top1 in results[results["level"] == level].groupby("method", sort=False)["top1"]:
            lines.append(f"{figures.NAMES[method]}: {figures.with_error(top1.mean(), top1.sem())} %")
        if len(lines) == 1:
            lines.append("no training of this profile is at this level")
        return figures.sheet(images, z, titles), "\n".join([*lines, "", hierarchy.show(level)])

    return draw


def clustering(images: Images, points: pd.DataFrame, guess: pd.Series) -> Callable[[str], Drawn]:
    """For a clustering of the map (`law.points`): its place, images of its largest clusters, what was measured, and what the law foretold."""

    def draw(clustering: str) -> Drawn:
        z, mine = clusters.make(clustering, images), points.loc[clustering]
        figure, (ax, sheet) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=[1, 1.4])
        ax.scatter(points["h_z_given_t"], points["i_zt"], 40, points["cl_infonce"], cmap="viridis")
        ax.scatter(mine["h_z_given_t"], mine["i_zt"], 220, facecolor="none", edgecolor="red", lw=2)
        ax.set(xlabel="H(Z|T) (bits)", ylabel="I(Z;T) (bits)")
        largest = z.bincount().argsort(descending=True)[:6].tolist()
        rows = [images.subset((z == k).nonzero()[:10, 0]).images for k in largest]
        side = images.images.shape[1]
        for i, row in enumerate(rows):
            place = (0, len(row) * side, (len(rows) - i - 1) * side, (len(rows) - i) * side)
            sheet.imshow(row.transpose(1, 0, 2, 3).reshape(side, -1, 3), extent=place)
        sheet.set(xlim=(0, 10 * side), ylim=(0, len(rows) * side), title="a row for each of the largest clusters")
        sheet.axis("off")
        measured = "".join(f", {figures.NAMES[m]} {mine[m]:.1f} %" for m in ("cl_infonce", "cross_entropy") if mine.get(m, math.nan) > 0)
        foretold = f"; foretold for Cl-InfoNCE by the law of the other families: {guess[clustering]:.1f} %" if clustering in guess else ""
        return figure, f"{clustering}: measured{measured[1:]}{foretold}"

    return draw


def neighbours(features: Mapping[str, torch.Tensor], images: Images, z: torch.Tensor, n: int = 8) -> Callable[[int], Drawn]:
    """For an image, by its number: its nearest among the others, by cosine, in each representation, name → features [N, D].

    Green frames are those of its class, blue ones those of its cluster z [N], orange ones the others.
    """
    nearest = {name: _nearest(each, n) for name, each in features.items()}

    def draw(image: int) -> Drawn:
        if not nearest:
            raise ValueError("only the records of these networks are at hand, not their weights: --fresh trains them")
        t, found = images.labels, {}
        figure, axes = plt.subplots(len(nearest), n + 1, figsize=(0.75 * n + 3, 0.75 * len(nearest)), squeeze=False)
        for row, (name, all_near) in zip(axes, nearest.items()):
            near = [image, *all_near[image].tolist()]
            found[name] = [sum((ids[near[1:]] == ids[image]).tolist()) for ids in (t, z)]
            for ax, i in zip(row, near):
                ax.imshow(images.images[i])
                ax.set(xticks=[], yticks=[])
                colour = "#009e73" if t[i] == t[image] else "#0072b2" if z[i] == z[image] else "#d55e00"
                ax.spines[:].set(visible=i != image, lw=3, color=colour)
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        figure.suptitle(images.class_names[t[image]].replace("_", " "))
        counts = "\n".join(f"{k} and {m} of {n}  {name}" for name, (k, m) in found.items())
        return figure, f"neighbours of the same class, and of the same cluster:\n{counts}"

    return draw


def telling(features: Mapping[str, torch.Tensor], t: torch.Tensor, n: int = 8) -> int:
    """The first image of whose n nearest, in one of some representations, half or more are of its class t [N]; the first of all, if none."""
    hits = [(t[_nearest(each, n)] == t[:, None]).sum(1) for each in features.values()]
    return int(torch.stack(hits).amax(0).ge(n / 2).int().argmax()) if hits else 0


def _nearest(features: torch.Tensor, n: int) -> torch.Tensor:
    """The nearest images by cosine, not the image itself, [N, n]."""
    unit = F.normalize(features, dim=1)
    return (unit @ unit.T).fill_diagonal_(-math.inf).topk(min(n, len(unit) - 1)).indices


def maps(features: Mapping[str, torch.Tensor], ids: Mapping[str, torch.Tensor], colours: int = 10) -> Figure:
    """Representations in two dimensions by t-SNE (van der Maaten and Hinton 2008): a column each, and a row for each kind of ids [N].

    The ids with the most images have a colour, the others are grey. Below each map: the share of an image's ten nearest neighbours
    in its representation that have its id, the mean over all images.
    """
    from sklearn.manifold import TSNE  # takes seconds, and only this picture needs it

    figure, axes = plt.subplots(len(ids), len(features), figsize=(3 * len(features), 2.8 * len(ids)), squeeze=False)
    for (name, each), column in zip(features.items(), axes.T):
        x, y = TSNE(perplexity=min(30, len(each) / 4), init="pca", random_state=0, metric="cosine").fit_transform(each.numpy()).T
        column[0].set_title(name)
        near = _nearest(each, 10)
        for ax, (kind, z) in zip(column, ids.items()):
            largest = z.bincount().argsort(descending=True, stable=True)[:colours]
            ax.scatter(x, y, 4, "0.85", lw=0, rasterized=True)  # thousands of dots would be a megabyte of SVG
            for k, colour in zip(largest[z.bincount()[largest] > 0], plt.get_cmap("Paired").colors):
                ax.scatter(x[z == k], y[z == k], 8, [colour], lw=0, rasterized=True)
            ax.set(xticks=[], yticks=[], ylabel=kind if ax in axes[:, 0] else "")
            ax.set_xlabel(f"of one colour: {(z[near] == z[:, None]).double().mean():.0%}")
    return figure


def shape(network: nn.Module, images: Images, seed: int = 0) -> dict[str, float]:
    """Alignment and uniformity (Wang and Isola 2020, section 4.1: α = 2, t = 2) of a network's features of two views of each image.

    alignment: the mean squared distance between the two views of an image, 0 at best; uniformity: the logarithm of the mean of
    exp(-2 d²) over pairs of images, the smaller the more evenly the images lie on the sphere.
    """
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2)
    views = augment.two_views(pixels, images.mean, images.std, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        u, v = F.normalize(network(views).float(), dim=1).chunk(2)
    apart = torch.pdist(u).square()
    return {"alignment": (u - v).square().sum(1).mean().item(), "uniformity": apart.mul(-2).exp().mean().log().item()}
