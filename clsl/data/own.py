"""One's own images: a folder a class, or a table that names files and labels → the files of a split and what is known of each.

What is odd has a rule (docs/data.md): it is left out and named, or refused in a line; nothing is guessed in silence.
"""

import csv
import io
import json
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

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
_TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "-1", "-1.0", "false", "no"}


class Table(NamedTuple):
    """What a folder says of its images: a row each, with file_name, label and any further columns, words as they were written."""

    rows: pd.DataFrame
    left_out: list[str]


def folder(root: Path, split: str) -> tuple[list[Path], dict[str, Any]]:
    """A folder for each class, or metadata.csv, .tsv or .jsonl (`file_name`, `label`, any further columns).

    With folders train/ and test/ (or val/), each of that kind, or a fifth of the images drawn at random to test on.
    Further columns with two values are attributes, where one that is missing counts as a no; the first text column is tags,
    a noun of WordNet each; and every column but the attributes makes clusters of its own. Classes whose names are nouns of
    WordNet have a hierarchy. Raises OSError, in a line, for what cannot be read without a guess.
    """
    parts = _parts(root)
    tables = {part: _described(path) for part, path in parts.items()} or _divided(_described(root))
    rows = pd.concat({part: table.rows for part, table in tables.items()})
    classes = sorted(set(tables["train"].rows["label"]))
    if len(classes) < 2:
        raise OSError(f"{root} has one class to train on ({', '.join(classes)}): it takes two to test a representation")
    fields, same = _columns(rows.drop(columns=["file_name", "label"]))
    mine, known = rows.index.get_level_values(0) == split, rows["label"].isin(classes)
    left_out = tables[split].left_out + (same if split == "train" else [])
    if foreign := sorted(set(rows["label"][mine & ~known])):
        left_out.append(f"{(mine & ~known).sum()} images to {split} are of classes that train lacks, the first {foreign[0]!r}")
    if not (mine & known).any():
        raise OSError(f"{root} has no images to {split} on: add some, or folders train/ and test/")
    fields["labels"] = torch.tensor([classes.index(label) if label in classes else -1 for label in rows["label"]])
    chosen = torch.from_numpy(np.flatnonzero(mine & known))
    names = rows["file_name"].iloc[chosen.tolist()]
    known = {"class_names": tuple(classes), "left_out": tuple(left_out), **_hierarchy(classes)}
    return [parts.get(split, root) / name for name in names], fields | selected(fields, chosen) | known


def selected(fields: Mapping[str, Any], indices: torch.Tensor) -> dict[str, Any]:
    """What fields of Images, all but the pixels, say of the images at int64 indices [n]."""
    out = {name: fields[name][indices] for name in ("labels", "attributes", "aspects") if fields.get(name) is not None}
    for name in ("tags", "files"):
        if fields.get(name) is not None:
            out[name] = tuple(fields[name][i] for i in indices.tolist())
    if fields.get("columns") is not None:
        out["columns"] = {name: column[indices] for name, column in fields["columns"].items()}
    return out


def _divided(table: Table) -> dict[str, Table]:
    """The rows to train and to test on, drawn once and for all; what was left out is said with the first."""
    names = sorted(table.rows["file_name"])
    mine = {part: table.rows["file_name"].isin(drawn(names, part, 0.8)) for part in _SPLITS}
    return {part: Table(table.rows[mine[part]], table.left_out if part == "train" else []) for part in _SPLITS}


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


def _parts(root: Path) -> dict[str, Path]:
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
    there = [root / name for name in _TABLES if (root / name).exists()]
    if there[1:]:
        raise OSError(f"{root} has {there[0].name} and {there[1].name}: leave one")
    if there and not there[0].is_file():
        raise OSError(f"{there[0]} is not a file")
    return there[0] if there else None


def _described(root: Path) -> Table:
    listed = _table_of(root)
    found = {path.relative_to(root).as_posix(): path for path in _walk(root)}
    images = {name for name, path in found.items() if _is_image(path)}
    if listed is not None:
        return _listed(listed, found.keys(), images)
    names, left_out = sorted(images), []
    if not names or any("/" not in name for name in names):
        raise OSError(f"{root} needs a folder of images for each class, or a metadata.csv with file_name and label")
    _say(left_out, found.keys() - images, f"files in {root} are no images, or do not have the names of images")
    return Table(pd.DataFrame({"file_name": names, "label": [name.split("/")[0] for name in names]}), left_out)


def _say(left_out: list[str], names: Collection[str], words: str) -> None:
    if names:
        left_out.append(f"{len(names)} {words}, the first {min(names)}")


def _listed(path: Path, found: Collection[str], images: set[str]) -> Table:
    """The rows of a table whose files are there and that have a label."""
    rows, lines, left_out = [], {}, []
    there = {unicodedata.normalize("NFC", name): name for name in found}  # macOS takes letters and accents apart
    for line, row in _rows(path):
        name, label = row.get("file_name"), row.get("label")
        if name is None:
            raise OSError(f"{path}, line {line}: no file_name")
        name = name.replace("\\", "/")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise OSError(f"{path}, line {line}: {name} leads out of the folder")
        name = there.get(unicodedata.normalize("NFC", Path(name).as_posix()), Path(name).as_posix())
        if name in lines:
            first, other = lines[name]
            if other != label:
                raise OSError(f"{path}, lines {first} and {line}: {name} has two labels, {other!r} and {label!r}")
            left_out.append(f"{path}, line {line}: {name} is listed twice")
            continue
        lines[name] = line, label
        if label is None:
            left_out.append(f"{path}, line {line}: {name} has no label")
        elif name not in found:
            left_out.append(f"{path}, line {line}: {name} is not there")
        else:
            rows.append({**row, "file_name": name})
    if not rows:
        raise OSError(f"{path} names no image that is there and has a label" + (f": {left_out[0]}" if left_out else ""))
    _say(left_out, images - lines.keys(), f"images have no row in {path}")
    return Table(pd.DataFrame(rows, dtype=object), left_out)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line and words of each row of a table; a gap is None."""
    text = _text(path)
    if path.suffix == ".jsonl":
        for line, content in enumerate(re.split("\r\n|\r|\n", text), 1):
            if content.strip():
                yield line, _json_row(path, line, content)
        return
    header = re.split("\r\n|\r|\n", text)[0]
    delimiter = max(",;\t", key=lambda each: ({"file_name", "label"} <= {*_fields(header, each)}, header.count(each)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if wrong := [name for name in names if names.count(name) > 1 or not name]:
            raise OSError(f"{path}, line 1: two columns have the name {wrong[0]!r}" if wrong[0] else f"{path}, line 1: a column without a name")
        for needed in ("file_name", "label"):
            if needed not in names:
                raise OSError(f"{path} lacks the column {needed}: it has {', '.join(names) or 'nothing'}")
        for fields in reader:
            if fields and len(fields) != len(names):
                message = f"{len(fields)} fields, and {len(names)} columns: quote what has a {delimiter!r} in it"
                raise OSError(f"{path}, line {reader.line_num}: {message}")
            if fields:
                yield reader.line_num, {name: field.strip() or None for name, field in zip(names, fields)}
    except csv.Error as error:
        raise OSError(f"{path}, line {reader.line_num}: {error}: is a quote left open?") from None


def _fields(header: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])]


def _json_row(path: Path, line: int, content: str) -> dict[str, str | None]:
    try:
        row = json.loads(content, parse_constant=lambda name: None, parse_int=str, parse_float=str, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}, line {line}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise OSError(f'{path}, line {line}: must be like {{"file_name": "1.jpg", "label": "cat"}}, got {content.strip()[:40]}')
    for name, value in row.items():
        if isinstance(value, (list, dict)):
            raise OSError(f"{path}, line {line}: {name} must be a word or a number, got {json.dumps(value)[:40]}")
    words = {True: "true", False: "false", None: ""}  # of all others the text is kept as it was written
    return {name: words.get(value, value).strip() or None for name, value in row.items()}


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"{[name for name, _ in pairs]!r} has a name twice")
    return dict(pairs)


def _text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a mark of it at the start."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise OSError(f"{path}, line {line}: not in UTF-8: save it as UTF-8 (in a spreadsheet: CSV UTF-8)") from None
    if "\0" in text:
        raise OSError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: not a text: save the table as CSV")
    return text


def _columns(table: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
    """Attributes, tags and clusters out of columns of words; and what was left out. The second word by name is the attribute."""
    out, attributes, others, said = {}, {}, {}, []
    for name, column in table.items():
        values = sorted(column.dropna().unique())
        said_so = [value.lower() in _TRUE for value in values if value.lower() in _TRUE | _FALSE]
        if len(values) < 2 and not (values and column.isna().any()):
            said.append(f"the column {name} says the same of all images")
        elif len(values) == len(said_so) and (said_so in ([True, False], [False, True]) or len(values) == 1):
            attributes[name] = column.str.lower().isin(_TRUE)
        elif len(values) == 2:
            attributes[f"{name}={values[1]}"] = column == values[1]
        else:
            others[name] = column
    if attributes:
        out["attributes"] = torch.from_numpy(np.stack([column.to_numpy(bool) for column in attributes.values()], axis=1))
        out["attribute_names"] = tuple(attributes)
    texts = [name for name, column in others.items() if pd.to_numeric(column.dropna(), errors="coerce").isna().any()]
    if texts:
        out["tags"] = tuple(others[texts[0]].fillna("").astype(str))
    if others:
        out["columns"] = {name: torch.from_numpy(pd.factorize(column)[0].astype(np.int64)) for name, column in others.items()}
    return out, said


def _hierarchy(names: Sequence[str]) -> dict[str, Any]:
    try:
        return {"synsets": tuple(wordnet.synset(name) for name in names)}
    except ValueError:
        return {}
