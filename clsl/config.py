"""The configuration of one training: every knob once, with its range and what it does; the papers' values beside it."""

import dataclasses
import json
import math
import re
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# What `python -m clsl search` chose for the small encoder; `given`: a batch_size, companions, or least epochs that it was searched for.
SEARCHED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("searched.json").read_text())


def settings(method: str, dataset: str, clusters: str | None, **given: int | None) -> dict[str, float]:
    """lr, temperature and batch_size of a method, searched on these clusters, or else on those of the same kind, or of the nearest H(Z).

    given: the training's batch_size, companions and epochs. SimCLR and SupCon are Cl-InfoNCE too. {} where nothing was searched.
    """
    method, (kind, number, bits) = method.removesuffix("+progressive"), _described(clusters or "", dataset)
    names = (method, "supcon", "simclr") if method == "cl_infonce" else (method,)

    def near(own: dict[str, Any]) -> tuple:
        other, n, _ = _described(own["clusters"], dataset)
        apart = abs(n - number) if other == kind else abs(own["h_z"] - bits) if other != "kmeans" else math.inf  # k-means' change
        return own["dataset"] == dataset, own["clusters"] == clusters, other == kind, len(own["given"]), -apart

    def fits(own: dict[str, Any]) -> bool:
        asked = {name: given.get(name) or 0 for name in own["given"]}
        return all(asked[name] >= n if name == "epochs" else asked[name] == n for name, n in own["given"].items())

    best = max((own for own in SEARCHED if own["method"] in names and fits(own)), key=near, default={})  # the first of equals
    return {name: best[name] for name in ("lr", "temperature", "batch_size") if name in best}


def _described(clusters: str, dataset: str) -> tuple[str, int, float]:
    """What is before the colon, the first number after it, or 0, and H(Z) in bits as far as these tell, else infinity."""
    from .data import DATASETS

    kind, _, rest = clusters.partition(":")
    n = int(next(iter(re.findall(r"\d+", rest)), 0))
    h_t = math.log2(getattr(DATASETS.get(dataset.partition(":")[0]), "classes", None) or math.inf)
    bits = {"labels": h_t, "merged": h_t - n, "split": h_t + n, "permuted": h_t + n, "attributes": n, "annotators": n}
    return kind, n, bits.get(kind, math.inf)


def knob(default: Any, low: float = -math.inf, high: float = math.inf, above: float = -math.inf, below: float = math.inf, choices=()):
    """A field between low and high, more than `above`, less than `below`, or one of some choices; None is always in range."""
    return field(default=default, metadata={"range": (low, high, above, below), "choices": tuple(choices)})


def _known() -> dict[str, Any]:
    """The methods and encoders there are; only when they are asked for, since torch takes seconds to import."""
    from .encoders import ENCODERS
    from .methods import METHODS

    return {"encoder": ENCODERS, "method": METHODS}


@dataclass(frozen=True)
class Pretraining:
    """Everything that decides the numbers of one run. A wrong value raises ValueError at once, in one line."""

    dataset: str = "cifar10"  # a name of data.DATASETS, with its folder after a colon where that is not in the cache
    train_size: int | None = knob(None, low=2, high=10**9)  # images trained on, drawn once at random; None: all
    test_size: int | None = knob(None, low=1, high=10**9)  # images tested on, drawn likewise
    image_size: int | None = knob(None, low=8, high=4096)  # pixels a side of the views; None: those of the images, 64 where they come from files
    encoder: str = "tiny"  # a name in encoders.ENCODERS
    method: str = "simclr"  # a name in methods.METHODS
    clusters: str | None = None  # as clusters.make reads them, "wordnet:level=4"; None: the method's own
    seed: int = knob(0, low=0, below=2**31)  # of the weights, the order, the views, and of clusters drawn at random
    epochs: int = knob(10, low=1, high=10**6)
    batch_size: int | None = knob(None, low=2, high=10**6)  # images, each in two views; an incomplete last batch is left out; None: as lr
    lr: float | None = knob(None, above=0, high=1000)  # at its highest; None: what search.py found for the method and the clusters
    warmup: float = knob(0.1, low=0, high=1)  # share of the steps in which lr rises from 1e-5, before a cosine; authors: 0.33
    optimizer: str = knob("sgd", choices=("sgd", "lars"))  # SGD with Nesterov's momentum, or LARS, for large batches
    momentum: float = knob(0.9, above=0, below=1)  # of SGD or LARS; the authors' code: 0.95
    weight_decay: float = knob(1e-4, low=0, high=1)
    temperature: float | None = knob(None, above=0, high=1000)  # of the loss; None: as lr
    base_temperature: float | None = knob(None, above=0, high=1000)  # 0.07 for the factor τ/0.07 left in the authors' code
    projection_dim: int = knob(128, low=1, high=10**6)
    crop: float = knob(0.4, above=0, high=1)  # the smallest share of an image's area in a view; the authors' dual head: 0.08
    jitter: float = knob(0.4, low=0, high=1)  # of the views' colours; the authors' dual head: 0.8
    warmup_crop: float | None = knob(None, above=0, high=1)  # during the warm-up; None: as after it; the authors' dual head: 0.2
    warmup_jitter: float | None = knob(None, low=0, high=1)  # during the warm-up; None: as after it; the authors' dual head: 0.4
    companions: int | None = knob(None, low=2, high=10**6)  # images of each cluster drawn together into a batch; None: all at random
    blur: float = knob(0.0, low=0, high=1)  # probability of a blurred view; the authors' dual head: 0.5
    queue_size: int = knob(4096, low=1, high=10**9)  # of MoCo and PCL, in projections; the authors' scripts for small data: 16384
    encoder_momentum: float = knob(0.99, above=0, below=1)  # of the slow copy of MoCo, PCL, BYOL; those scripts: 0.8 or 0.999
    kmeans_after: float = knob(0.0, low=0, high=1)  # share of cl_infonce's training that is SimCLR's, before k-means; their script: 0
    refresh: float = knob(0.1, low=0, high=1)  # share of the training after which +progressive clusters anew; 1: never
    pseudo_loss: str = knob("cl_infonce", choices=("cl_infonce", "cross_entropy"))  # of +progressive
    pseudo_rise: str = knob("steps", choices=("steps", "linear", "constant"))  # of the weight of that loss
    pseudo_weight: float = knob(0.1, low=0, high=1)  # which the rise reaches
    tested_on: str = knob("test", choices=("test", "held_out"))  # held_out: training images not trained on, to choose settings by
    transfer: str | None = None  # a data set on whose classes the representation is probed too; None: none
    probe: str = knob("lbfgs", choices=("lbfgs", "sgd", "sgd_large_batch"))  # the linear evaluation; the authors': evaluate.PROBES

    def __post_init__(self):
        for name, value in checked({each.name: getattr(self, each.name) for each in dataclasses.fields(self)}).items():
            object.__setattr__(self, name, value)
        for name, choices in _known().items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(choices)}")
        self._settle()
        self._check_together()

    def _settle(self) -> None:
        """Put the method's own clusters and settings where none are given."""
        own = _known()["method"][self.method].clusters
        _check_clusters(self.method, self.clusters, own)
        clusters = self.clusters or own
        given = {name: getattr(self, name) for name in ("batch_size", "companions", "epochs")}
        for name, default in {"clusters": clusters, **settings(self.method, self.dataset, clusters, **given)}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if None in (self.lr, self.temperature, self.batch_size):
            raise ValueError(f"{self.method} has no settings yet: give lr, temperature and batch_size, or run python -m clsl search")

    def _check_together(self) -> None:
        from .data import check_name
        from .methods import WMSE

        for name in (self.dataset, self.dataset if self.transfer is None else self.transfer):
            check_name(name)
        if self.method.startswith("w_mse") and self.batch_size <= WMSE.dimensions:
            raise ValueError(f"batch_size must be more than the {WMSE.dimensions} dimensions that w_mse whitens, got {self.batch_size}")
        if self.companions and self.companions > self.batch_size:
            raise ValueError(f"companions must be at most batch_size ({self.batch_size}), got {self.companions}")
        if self.kmeans_after and not (self.method == "cl_infonce" and self.clusters.startswith("kmeans")):
            raise ValueError(f"kmeans_after is of cl_infonce on k-means, not of {self.method} on {self.clusters}")
        if self.method in ("moco", "pcl", "cl_infonce_moco") and self.queue_size < self.batch_size:
            raise ValueError(f"queue_size must be at least batch_size ({self.batch_size}), got {self.queue_size}")


def read(path: Path) -> Pretraining:
    """The configuration in a YAML or JSON file of fields. Raises ValueError for an unknown or a wrong one, OSError for no file."""
    return from_fields(named_values(path))


def named_values(path: Path) -> dict[str, Any]:
    """The NAME: VALUE lines of a YAML or JSON file. Raises ValueError for another file, or a name that stands there twice."""
    values = parsed(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold NAME: VALUE lines, got a {type(values).__name__}")
    return values


def parsed(text: bytes | str, what: str) -> Any:
    """A value in YAML or JSON; numbers are decimal. Raises ValueError, in a line that begins with `what`, for other text."""
    try:
        return yaml.load(text, _Strict)
    except _Twice as error:
        raise ValueError(f"{what} has {error} twice") from None
    except (yaml.YAMLError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what} is neither YAML nor JSON: {said[:100]}") from None


class _Twice(Exception):
    """A name that stands twice in one mapping."""


class _Strict(yaml.SafeLoader):
    """YAML 1.2's numbers (1e-5, and 010 is ten), and no name twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "not a mapping", node.start_mark)
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise _Twice(twice[0])
        return super().construct_mapping(node, deep)


def from_fields(fields: dict[str, Any]) -> Pretraining:
    """Pretraining(**fields), which says what an unknown name could have been. Raises ValueError."""
    return Pretraining(**checked(fields))


def checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of Pretraining, each in its type. Raises ValueError for an unknown name, a wrong type, or a value out of its range.
    Methods, encoders and data sets are not looked up: that would take seconds.
    """
    known = {each.name: each for each in dataclasses.fields(Pretraining)}
    if unknown := [str(name) for name in fields if name not in known]:
        raise ValueError(f"unknown field {unknown[0]!r}: choose from {', '.join(known)}")
    return {name: _checked(known[name], value) for name, value in fields.items()}


_NUMBERS = {"tag:yaml.org,2002:int": r"[-+]?[0-9]+", "tag:yaml.org,2002:float": r"[-+]?([0-9]*\.)?[0-9]+([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)"}
_Strict.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS and not tag.endswith("timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Strict.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))
_Strict.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """A field's value in its type. Raises ValueError where the type, the range or the choice is wrong."""
    name = field.name
    if isinstance(1.0, field.type) and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    if not isinstance(value, field.type) or isinstance(value, bool):
        raise ValueError(f"{name} must be {getattr(field.type, '__name__', field.type)}, got {reprlib.repr(value)}")
    if value is None or not field.metadata:
        return value
    choices, (low, high, above, below) = field.metadata["choices"], field.metadata["range"]
    if choices and value not in choices:
        raise ValueError(f"unknown {name} {value!r}: choose from {', '.join(choices)}")
    if not choices and not (low <= value <= high and above < value < below and math.isfinite(value)):
        wrong = {"at least": value < low and low, "at most": value > high and high}
        wrong |= {"more than": value <= above and above, "less than": value >= below and below}
        said = [f"{words} {limit:.10g}" for words, limit in wrong.items() if limit is not False and math.isfinite(limit)]
        raise ValueError(f"{name} must be {' and '.join(said) or 'finite'}, got {value}")
    return value


def _check_clusters(method: str, clusters: str | None, own: str | None) -> None:
    example = "kmeans:k=250" if own == "kmeans" else "wordnet:level=4"
    if own in (None, "kmeans") and clusters is None:
        raise ValueError(f"{method} needs clusters: name them, for example clusters={example!r}")
    if own == "kmeans" and not clusters.startswith("kmeans"):
        raise ValueError(f"{method} needs clusters made by k-means, for example {example!r}, got {clusters!r}")
    if own not in (None, "kmeans") and clusters not in (None, own):
        raise ValueError(f"{method} has clusters of its own ({own}), not {clusters!r}: use cl_infonce")
