"""One's own images: a folder a class, or a table that names files and labels → the files of a split and what is known of each.

What is odd has a rule (docs/data.md): it is left out and named, or refused in a line; nothing is guessed in silence.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .. import wordnet
from . import columns, downloads, spreadsheet

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp", ".jfif", ".heic"}  # the last is named, not read
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
_TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
_SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


class Table(NamedTuple):
    """What a folder says of its images: a row each, with file_name, label and any further columns, words as they were written."""

    rows: pd.DataFrame
    left_out: list[str]


def folder(root: Path, split: str) -> tuple[list[Path], dict[str, Any]]:
    """A folder for each class, or metadata.csv, .tsv or .jsonl (`file_name`, `label`, any further columns).

    With folders train/ and test/ (or val/), each of that kind, or a column `split` that says train and test, or a fifth of
    the images drawn at random to test on, whole groups where a column is called `group`. Further columns with two values are
    attributes, where one that is missing counts as a no; the first text column is tags, a noun of WordNet each; and every
    column but the attributes makes clusters of its own. Classes whose names are nouns of WordNet have a hierarchy. Raises
    OSError, in a line, for what cannot be read without a guess.
    """
    return _read(root, split, {part: described(path) for part, path in split_folders(root).items()} or _divided(root))


def root_of(dataset: str) -> Path | None:
    """The folder that a data set's name, folder or folder:PATH, means, if it is there; None for other data sets."""
    kind, _, given = dataset.partition(":")
    root = Path(given).expanduser() if given else downloads.cache() / kind
    return root if kind == "folder" and root.is_dir() else None


def with_gaps(root: Path, split: str | None = "train") -> tuple[list[Path], dict[str, Any]]:
    """Like `folder`, also of images without a label, whose label is -1; there need be no label at all. None: of both splits."""
    parts = split_folders(root)
    tables = {part: described(path, gaps=True) for part, path in parts.items()} or _divided(root, gaps=True)
    return _read(root, split, tables, classes_needed=0)


def _read(root: Path, split: str | None, tables: Mapping[str, Table], classes_needed: int = 2) -> tuple[list[Path], dict[str, Any]]:
    parts = split_folders(root)
    rows = pd.concat({part: table.rows for part, table in tables.items()})
    part = rows.index.get_level_values(0)
    classes = sorted(set(rows["label"][(part == "train") | (split is None)].dropna()))
    if len(classes) < classes_needed:
        raise OSError(f"{root} has one class to train on ({', '.join(classes)}): it takes two to test a representation")
    fields, same = columns.read(rows.drop(columns=["file_name", "label"]))
    mine, known = (part == split) | (split is None), rows["label"].isin(classes) | rows["label"].isna()
    left_out = [line for name, table in tables.items() if split in (name, None) for line in table.left_out]
    left_out += same if split != "test" else []
    if foreign := sorted(set(rows["label"][mine & ~known])):
        left_out.append(f"{(mine & ~known).sum()} images to {split} are of classes that train lacks, the first {foreign[0]!r}")
    if not (mine & known).any():
        why = f": {left_out[-1]}" if foreign else ""
        raise OSError(f"{root} has no images to {split} on{why}: add some, or folders train/ and test/")
    fields["labels"] = torch.tensor([classes.index(label) if label in classes else -1 for label in rows["label"]])
    chosen = torch.from_numpy(np.flatnonzero(mine & known))
    paths = [parts.get(part[i], root) / rows["file_name"].iloc[i] for i in chosen.tolist()]
    known = {"class_names": tuple(classes), "left_out": tuple(left_out), **_hierarchy(classes)}
    return paths, fields | selected(fields, chosen) | known


def selected(fields: Mapping[str, Any], indices: torch.Tensor) -> dict[str, Any]:
    """What fields of Images, all but the pixels, say of the images at int64 indices [n]."""
    out = {name: fields[name][indices] for name in ("labels", "attributes", "aspects") if fields.get(name) is not None}
    for name in ("tags", "files"):
        if fields.get(name) is not None:
            out[name] = tuple(fields[name][i] for i in indices.tolist())
    if fields.get("columns") is not None:
        out["columns"] = {name: column[indices] for name, column in fields["columns"].items()}
    return out


def _divided(root: Path, gaps: bool = False) -> dict[str, Table]:
    """A folder's rows to train and to test on, as a column `split` says or drawn once and for all; what was left out is said with the first.

    Drawn are files, or the groups that a column `group` names; what has no label is not tested on.
    """
    table = described(root, gaps)
    rows, words = table.rows, {word: part for part, some in _SPLITS.items() for word in some}
    if "split" in rows and {*(said := rows["split"].str.casefold().map(words))} == {*_SPLITS}:
        rows = rows.drop(columns="split")
        return {part: Table(rows[said == part], table.left_out if part == "train" else []) for part in _SPLITS}
    of = rows["group"].fillna(rows["file_name"]) if "group" in rows else rows["file_name"]
    if "group" in rows and of.nunique() == 1:
        raise OSError(f"{root} has one group only, {of.iloc[0]}: it takes two, to train on and to test on")
    test = of.isin(drawn(sorted(set(of[rows["label"].notna()])), "test", 0.8)) & rows["label"].notna()
    return {"train": Table(rows[~test], table.left_out), "test": Table(rows[test], [])}


def files(root: Path) -> list[Path]:
    """All files below a folder whose names are those of images, sorted; links are followed, what is hidden is not."""
    return sorted(path for path in _walk(root) if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def drawn(names: Sequence[str], split: str, share: float) -> list[str]:
    """A share of some names to train on, drawn once and for all, or the rest to test on."""
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = order[: int(share * len(names))] if split == "train" else order[int(share * len(names)) :]
    return [names[i] for i in sorted(chosen)]


def _walk(root: Path) -> Iterator[Path]:
    """Whatever is no folder below a folder, also behind links; a link to a folder that it lies in is not followed."""

    def refuse(error: OSError) -> None:
        raise error

    def shown(names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith(".") and name != "__MACOSX"]

    for here, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        above = {path.resolve() for path in (Path(here), *Path(here).parents)}
        folders[:] = [name for name in shown(folders) if Path(here, name).resolve() not in above]
        yield from (Path(here, name) for name in shown(names))


def split_folders(root: Path) -> dict[str, Path]:
    """The folders to train and to test on, if there are such, in whatever case their names are written."""
    found: dict[str, Path] = {}
    for path in (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")):
        if other := found.get(path.name.casefold()):
            raise OSError(f"{root} has {other.name}/ and {path.name}/: which of the two is meant? Rename one")
        found[path.name.casefold()] = path
    listed = _table_of(root)
    parts = {part: [found.pop(name) for name in names if name in found] for part, names in _SPLITS.items()}
    both = " and ".join(f"{paths[0].name}/" for paths in parts.values() if paths)
    if listed and all(parts.values()):
        raise OSError(f"{listed} lies beside {both}: put a table into each of the two")
    if listed or not any(parts.values()) or found and not all(parts.values()):
        return {}  # train/ beside bus/ is a class
    for part, others in (("train", "train/"), ("test", "test/ or val/")):
        if not parts[part]:
            raise OSError(f"{root} lacks {others}: add it, or put the classes into {root} itself, and a fifth of the images is drawn")
    beside = [f"{path.name}/" for path in (*found.values(), *parts["train"][1:], *parts["test"][1:])]
    beside += [path.name for path in sorted(root.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if beside:
        raise OSError(f"{root} has {beside[0]} beside {both}: move it away")
    return {part: paths[0] for part, paths in parts.items()}


def _table_of(root: Path) -> Path | None:
    """The table that describes a folder, if there is one."""
    there = [path for path in sorted(root.iterdir()) if path.name.casefold() in _TABLES]
    sheets = [path for path in root.iterdir() if path.stem.casefold() == "metadata" and path.suffix.casefold() in _SHEETS]
    if sheets and not there:
        raise OSError(f"{sheets[0]} is the spreadsheet's own: save it as metadata.csv (CSV UTF-8)")
    if there[1:]:
        raise OSError(f"{root} has {there[0].name} and {there[1].name}: leave one")
    if there and not there[0].is_file():
        raise OSError(f"{there[0]} is not a file")
    return there[0] if there else None


def described(root: Path, gaps: bool = False) -> Table:
    """What a folder says of its images; gaps: also of those without a label."""
    listed = _table_of(root)
    found = {path.relative_to(root).as_posix(): path for path in _walk(root)}
    images = {name for name, path in found.items() if _is_image(path)}
    if listed is not None:
        return _listed(listed, found.keys(), images, gaps)
    names, left_out = sorted(images), []
    if any("/" in name for name in names) and (loose := [name for name in names if "/" not in name]):
        raise OSError(f"{root} has {loose[0]} beside the folders of its classes: move it away, or into one of these")
    if not names or "/" not in names[0]:
        raise OSError(f"{root} needs a folder of images for each class, or a metadata.csv with file_name and label")
    _say(left_out, found.keys() - images, f"files in {root} are no images, or do not have the names of images")
    return Table(pd.DataFrame({"file_name": names, "label": [name.split("/")[0] for name in names]}), left_out)


def _say(left_out: list[str], names: Collection[str], words: str) -> None:
    if names:
        left_out.append(f"{len(names)} {words}, the first {min(names)}")


def _listed(path: Path, found: Collection[str], images: set[str], gaps: bool) -> Table:
    """The rows of a table whose files are there and that have a label, or need none."""
    rows, lines, left_out, there = [], {}, [], by_name(found)
    for line, row in spreadsheet.rows(path, ("file_name",) if gaps else ("file_name", "label")):
        name, label = row.get("file_name"), row.setdefault("label", None)
        if name is None:
            raise OSError(f"{path}, line {line}: no file_name")
        name = name.replace("\\", "/").removeprefix(f"{path.parent.as_posix()}/")
        spelled = spellings(Path(name).as_posix())
        if ".." in Path(name).parts or Path(name).is_absolute() and there.get(spelled[-1]) is None:
            raise OSError(f"{path}, line {line}: {name} leads out of the folder")
        name = next((there[each] for each in spelled if there.get(each)), Path(name).as_posix())
        if name in lines:
            first, other = lines[name]
            if other != label:
                raise OSError(f"{path}, lines {first} and {line}: {name} has two labels, {other!r} and {label!r}")
            left_out.append(f"{path}, line {line}: {name} is listed twice")
            continue
        lines[name] = line, label
        if label is None and not gaps:
            left_out.append(f"{path}, line {line}: {name} has no label")
        elif name not in found:
            why = "could be one of several" if {*spelled} & there.keys() else "is not there"
            left_out.append(f"{path}, line {line}: {name} {why}")
        else:
            rows.append({**row, "file_name": name})
    if not rows:
        raise OSError(f"{path} names no image that is there{'' if gaps else ' and has a label'}" + (f": {left_out[0]}" if left_out else ""))
    _say(left_out, images - lines.keys(), f"images have no row in {path}")
    return Table(pd.DataFrame(rows, dtype=object), left_out)


def spellings(name: str) -> tuple[str, ...]:
    """How a file may be called: with letters and accents in one; in another case; without its folder, or in one of another computer."""
    whole = unicodedata.normalize("NFC", name)
    last = re.sub("^([A-Za-z]:)?/(.*/)?", "", whole).casefold()
    return whole, f"?{whole.casefold()}", f"*/{last}"


def by_name(found: Collection[str]) -> dict[str, str | None]:
    """Spelling → file; None where two files are spelled so. macOS takes letters and accents apart, Windows knows no case."""
    there: dict[str, str | None] = {}
    for name in sorted(found):
        for each in {*spellings(name)[:2], spellings(name.split("/")[-1])[2]}:
            there[each] = None if each in there else name
    return there | {spellings(name)[0]: name for name in found}


def _hierarchy(names: Sequence[str]) -> dict[str, Any]:
    if all(re.fullmatch(r"[\W\d]*", name) for name in names):
        return {}  # numbers are nouns, and of no use here
    try:
        return {"synsets": tuple(wordnet.synset(name) for name in names)}
    except ValueError:
        return {}
