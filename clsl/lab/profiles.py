"""What the notebooks are run with: a profile's parameters and those of the command line, strict about names, types and ranges."""

import ast
import dataclasses
import functools
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import ROOT, config
from ..config import Pretraining

NOTEBOOKS = ROOT / "notebooks"


class Planned(NamedTuple):
    """A notebook to run: its file, the name of its results, and the parameters it declares."""

    notebook: Path
    experiment: str
    parameters: dict[str, Any]


def names() -> list[str]:
    """The names of the profiles, from the quickest."""
    found = [path.stem for path in (NOTEBOOKS / "profiles").glob("*.yml")]
    order = ["smoke", "quick", "cpu", "gpu", "paper"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def read(profile: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A profile: values for all notebooks; under a notebook's name its own, or a list of them, to run it once for each.

    `like: NAME` begins with the values of another profile. Raises ValueError for an unknown or a broken profile.
    """
    if profile not in names():
        raise ValueError(f"unknown profile {profile!r}: choose from {', '.join(names())} (or, without a profile, lab, test)")
    values = config.named_values(NOTEBOOKS / "profiles" / f"{profile}.yml")
    for name, own in values.items():
        each = own if isinstance(own, list) else [own]
        good = each and all(isinstance(one, dict) for one in each)
        if isinstance(own, list):
            good = good and all("dataset" in (one.get("training") or {}) for one in each)
        if _is_notebook(name) and not good:
            raise ValueError(f"profile {profile}: {name} needs NAME: VALUE lines, or a list of them with a training: dataset: each")
    if values.get("like") in (*seen, profile):
        raise ValueError(f"profile {profile} is like {values['like']}, which is like {profile}")
    return _merged(read(values.pop("like"), (*seen, profile)), values) if "like" in values else values


def _merged(*profiles: Mapping[str, Any]) -> dict[str, Any]:
    """Several profiles as one, the later the stronger; trainings are merged field by field."""
    trainings = [values["training"] for values in profiles if "training" in values]
    for training in trainings:
        if not isinstance(training, dict):
            raise ValueError(f"training must hold NAME: VALUE lines, got {reprlib.repr(training)}")
    out = {name: value for values in profiles for name, value in values.items()}
    return out | ({"training": {name: value for training in trainings for name, value in training.items()}} if trainings else {})


def _is_notebook(name: str) -> bool:
    return (NOTEBOOKS / f"{name}.ipynb").exists()


def planned(profile: str, notebooks: Sequence[str] = (), overrides: Sequence[tuple[str, str]] = ()) -> list[Planned]:
    """The notebooks whose names begin as given (all if none is), in order but for 00, which reads what the others found.

    Each with the parameters that it declares, typed as their defaults; strict where papermill is lax.
    """
    values, given = read(profile), {}
    for name, text in overrides:
        if name in given:
            raise ValueError(f"parameter {name} is given twice: {given[name]!r} and {text!r}")
        given[name] = _parsed(name, text)
    everything = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: (path.name.startswith("00"), path.name))
    for name in notebooks:
        if not any(path.name.startswith(name) for path in everything):
            raise ValueError(f"unknown notebook {name!r}: choose from {', '.join(sorted(path.stem for path in everything))}")
    declared = {path: defaults(path) for path in everything}
    wanted = [path for path in everything if not notebooks or path.name.startswith(tuple(notebooks))]
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
    if "profile" in given or "experiment" in given:
        raise ValueError("the profile is the first argument, and the notebook names the experiment: ./reproduce.sh smoke 03")
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
    return [(f"{notebook}_{kind or each['training']['dataset']}", each) for each in some]


def _chosen(
    profile: str, notebook: Path, experiment: str, own: Mapping, declared: Mapping, values: Mapping, given: Mapping
) -> dict[str, Any]:
    """The parameters of a notebook: its defaults, the profile's values, those for this notebook alone, the command line's."""
    if unknown := set(own) - set(declared):
        raise ValueError(f"profile {profile} sets {min(unknown)!r} for {notebook.stem}, which does not declare it")
    layers = [declared, values, own, {name: value for name, value in given.items() if name in declared}]
    if "training" in declared:
        layers.append({"training": {name: value for name, value in given.items() if name in _FIELDS and name not in declared}})
    everything = _merged(*layers) | {"experiment": experiment, "profile": profile}
    out = {name: _typed(name, everything[name], default) for name, default in declared.items()}
    _check_values({name: value for name, value in out.items() if name not in ("training", "experiment", "profile")})
    if "training" in declared:
        out["training"] = config.checked(out["training"])
    return out


_FIELDS = {field.name for field in dataclasses.fields(Pretraining)} - {"method", "clusters", "seed"}


def defaults(notebook: Path) -> dict[str, Any]:
    """The parameters that a notebook declares, and their defaults."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook} needs one cell with the tag parameters, got {len(tagged)}")
    source = "".join(tagged[0])
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def _parsed(name: str, text: str) -> Any:
    """A parameter's value; words that go to a field of text are taken as they are."""
    field = config.Pretraining.__dataclass_fields__.get(name)
    if field is not None and field.type in (str, str | None) and text not in ("null", ""):
        return text
    return config.parsed(text, f"parameter {name}, {reprlib.repr(text)},")


# Of the parameters that are no fields of a training: the least and the most of each number in them, or the choices of each word.
_OBJECTIVES = ("simclr", "byol", "w_mse", "barlow_twins")
_RANGES = {
    (0, 2**31 - 1): "seed seeds length_seeds more_seeds other_seeds",
    (0, 99): "level levels other_levels levels_elsewhere",
    (0, 64): "merges depths shuffled_depth",
    (0, 50): "noise noises",
    (0, 10**5): "shuffled_classes",
    (0.0, 1.0): "refresh kmeans_after",
    (1e-3, 1e3): "tau",
    (1, 1000): "repeats",
    (1, 1024): "devices",
    (1, 10**4): "ks other_ks noise_k",
    (1, 10**5): "steps draws dim",
    (1, 10**6): "lengths ids",
    (1, 10**7): "clusters_k other_clusters_k",
    (2, 10**6): "batches groups step_batch_size",
    (2, 50_000): "step_images",
    (4, 10**6): "rows",
    (64, 50_000): "files",
    _OBJECTIVES: "objectives studied",
    ("cross_entropy",): "other_methods",
    ("cl_infonce", "cross_entropy"): "pseudo_loss",
    ("steps", "linear", "constant"): "pseudo_rise",
}
_ALLOWED = {name: allowed for allowed, names in _RANGES.items() for name in names.split()}


def _check_values(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError where a parameter is out of its range, or a list has something twice."""
    for name, value in parameters.items():
        allowed = _ALLOWED.get(name, ("",))  # the other lists hold words
        items = value if isinstance(value, list) else [value] if name in _ALLOWED else []
        if twice := [item for item in items if items.count(item) > 1]:
            raise ValueError(f"parameter {name} has {twice[0]!r} twice: {value}")
        for item in items:
            if type(item) is not type(allowed[0]):
                kind = "words" if isinstance(allowed[0], str) else "whole numbers"
                raise ValueError(f"parameter {name} must hold {kind}, got {reprlib.repr(item)}")
            if name not in _ALLOWED:
                continue
            if isinstance(item, str) and item not in allowed:
                raise ValueError(f"parameter {name} must be one of {', '.join(allowed)}, got {item!r}")
            if not isinstance(item, str) and not allowed[0] <= item <= allowed[1]:
                raise ValueError(f"parameter {name} must be between {allowed[0]:g} and {allowed[1]:.10g}, got {item}")


def check_with_data(planned: Sequence[Planned]) -> None:
    """Raise ValueError where a parameter asks for more than the images have: levels, attributes, classes, clusters, a batch.

    Data sets that are not at hand are fetched, here, where their progress bar shows. Raises what data.read raises.
    """
    from .. import clusters  # here, and in the functions below: what has to do with images takes seconds to import

    for encoder in (each.parameters["step_encoder"] for each in planned if "step_encoder" in each.parameters):
        Pretraining(encoder=encoder)
    for parameters in (each.parameters for each in planned if "training" in each.parameters):
        config.from_fields({**parameters["training"], "method": "simclr", "clusters": None})
        dataset, given = parameters["training"]["dataset"], {**parameters, **parameters["training"]}
        known = _known(dataset)
        n = given["train_size"] or known["images"]
        most = {"train_size": (known["images"], "images"), "test_size": (known["tested"], "test images")}
        most |= dict.fromkeys(("batch_size", "batches", "clusters_k", "other_clusters_k"), (n, "images to train on"))
        most |= dict.fromkeys(("level", "levels", "other_levels"), (known["depth"], "levels below the root"))
        most |= dict.fromkeys(("ks", "other_ks", "noise_k"), (known["attributes"], "attributes"))
        most["shuffled_classes"] = known["classes"], "classes"
        for name, needed in (("levels", "classes that are nouns of WordNet"), ("ks", "attributes, or classes that are nouns")):
            if name in parameters and most[name][0] is None:
                raise ValueError(f"{name} asks for {needed}, and {dataset} has none: name the notebooks to run")
        for name, (limit, what) in most.items():
            items = given.get(name) if isinstance(given.get(name), list) else [given.get(name)]
            if limit is not None and (above := [item for item in items if item is not None and item > limit]):
                raise ValueError(f"{name}: {above[0]} is more than the {limit} {what} of {dataset}")
        for spec in [*parameters.get("other_clusters", []), *parameters.get("race", []), *parameters.get("tags", [])]:
            clusters.make(spec, known["stand_in"])


@functools.cache
def _known(dataset: str) -> dict[str, Any]:
    """What a data set has, without its pixels; None for what is not known of it."""
    from .. import data, wordnet
    from . import plan

    train, test = (plan.black(data.read(dataset, split)[1]) for split in ("train", "test"))
    depth = wordnet.Hierarchy(train.synsets).depth if train.synsets else None
    if train.attributes is not None:
        attributes = int((train.attributes.any(0) & ~train.attributes.all(0)).sum())
    else:
        attributes = len(wordnet.attributes(train.synsets)) if train.synsets else None
    counts = {"images": len(train), "tested": len(test), "classes": len(train.class_names), "depth": depth, "attributes": attributes}
    return counts | {"stand_in": train}


def _typed(name: str, value: Any, default: Any) -> Any:
    """The value in the type of the default, and a list's items in the type of the default's first."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is type(default):
        if default and type(value) is list:
            return [_typed(f"{name}[{i}]", item, default[0]) for i, item in enumerate(value)]
        return value
    raise ValueError(f"parameter {name} must be of type {type(default).__name__}, like {default!r}, got {value!r}")
