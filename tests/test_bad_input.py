"""What a person may get wrong, in one process: each is read by a rule, or answered by one line that says what and where."""

import dataclasses
import json
import math
import os
import re
import resource

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from clsl import augment, clusters, config, data, encoders, evaluate, information, losses, wordnet
from clsl.config import Pretraining
from clsl.data import kept, packing
from clsl.lab import claims, figures, runs, sheet

PIXEL = None  # stands for a picture in the tables below


def lay(root, files):
    """Write files, by name; names that end in / are folders, -> are links."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is PIXEL:
            noise = np.random.default_rng(len(name)).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(path, format="PNG")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("-> "):
            path.symlink_to(root / content[3:], target_is_directory=True)
        else:
            path.write_text(content, newline="")
    return root


PICTURES = {f"{letter}.png": PIXEL for letter in "abcdefghij"}
ROWS = [f"{letter}.png,{'cat' if letter in 'acegi' else 'dog'}" for letter in "abcdefghij"]


def table(*rows, header="file_name,label", name="metadata.csv", **more):
    return {**PICTURES, name: "\n".join([header, *(rows or ROWS)]) + "\n"}


def lines(*rows):
    return {**PICTURES, "metadata.jsonl": "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)}


def classes(*names, n=5, below=""):
    return {f"{below}{name}/{i}.png": PIXEL for name in names for i in range(n)}


REFUSED = {
    "nothing": ({}, "needs a folder of images for each class, or a metadata.csv"),
    "pictures without a table": (PICTURES, "needs a folder of images for each class, or a metadata.csv"),
    "pictures beside classes": ({**classes("cat", "dog"), "x.png": PIXEL}, "has x.png beside the folders of its classes: move it away"),
    "one class": (classes("cat"), "has one class to train on (cat): it takes two"),
    "one class in the table": (table(*[f"{c}.png,cat" for c in "abcde"]), "has one class to train on (cat)"),
    "an empty table": ({**PICTURES, "metadata.csv": ""}, "metadata.csv lacks the column file_name: it has nothing"),
    "a header only": ({**PICTURES, "metadata.csv": "file_name,label\n"}, "names no image that is there"),
    "no label column": (table("a.png,x", header="file_name,kind"), "lacks the column label: it has file_name, kind"),
    "no file_name column": (table("a.png,x", header="name,label"), "lacks the column file_name: it has name, label"),
    "no header": (table(*ROWS, header="a.png,cat"), "lacks the column file_name: it has a.png, cat"),
    "Latin-1": ({**PICTURES, "metadata.csv": "file_name,label\na.png,caf\xe9\n".encode("latin-1")}, "metadata.csv, line 2: not in UTF-8"),
    "UTF-16 without a mark": ({**PICTURES, "metadata.csv": "file_name,label\na.png,x\n".encode("utf-16-le")}, "line 1: not a text"),
    "a picture called csv": ({**PICTURES, "metadata.csv": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}, "metadata.csv, line 1: not in UTF-8"),
    "a quote left open": (table(*ROWS[:3], 'd.png,"dog', *ROWS[4:]), "unexpected end of data: is a quote left open?"),
    "a quote in the middle": (table(*ROWS[:3], '"d.png"x,dog'), "line 5: ',' expected after '\"': is a quote left open?"),
    "a field too many": (table(*ROWS[:3], "d.png,dog,brown"), "line 5: 3 fields, and 2 columns: quote what has a ',' in it"),
    "a field too few": (table(*ROWS[:3], "d.png"), "line 5: 1 fields, and 2 columns"),
    "every row a field too long": (table(*[f"{row},x" for row in ROWS]), "line 2: 3 fields, and 2 columns"),
    "a column twice": (table(*[f"{row},x" for row in ROWS], header="file_name,label,label"), "two columns have the name 'label'"),
    "a column without a name": (table(*[f"{row},x" for row in ROWS], header="file_name,label,"), "line 1: a column without a name"),
    "a way out": (table(*ROWS, "../secret.png,cat"), "line 12: ../secret.png leads out of the folder"),
    "a long way out": (table(*ROWS, "x/../../../etc/passwd,cat"), "leads out of the folder"),
    "a way out as Windows writes it": (table(*ROWS, "..\\secret.png,cat"), "line 12: ../secret.png leads out of the folder"),
    "an absolute path": (table(*ROWS, "/etc/passwd,cat"), "line 12: /etc/passwd leads out of the folder"),
    "two labels": (table(*ROWS, "a.png,dog"), "lines 2 and 12: a.png has two labels, 'cat' and 'dog'"),
    "two labels by two names": (table(*ROWS, "./a.png,dog"), "a.png has two labels"),
    "a label and none": (table(*ROWS, "a.png,"), "a.png has two labels, 'cat' and None"),
    "a row without a file name": (table(*ROWS[:3], ",dog"), "line 5: no file_name"),
    "no file is there": (table("x.png,cat", "y.png,dog"), "names no image that is there and has a label: "),
    "no row has a label": (table("a.png,", "b.png,"), "metadata.csv, line 2: a.png has no label"),
    "an empty jsonl": ({**PICTURES, "metadata.jsonl": ""}, "metadata.jsonl names no image that is there"),
    "a line that is not JSON": (lines({"file_name": "a.png", "label": "x"}, "{'file_name': 1}"), "metadata.jsonl, line 2: not JSON: "),
    "half a line of JSON": (lines('{"file_name": "a.png", "lab'), "line 1: not JSON: "),
    "a list for a line": (lines(["a.png", "cat"]), 'line 1: must be like {"file_name": "1.jpg", "label": "cat"}, got ["a.png"'),
    "a word for a line": (lines('"a.png"'), "line 1: must be like"),
    "a whole file as one list": (lines([{"file_name": "a.png"}]), "line 1: must be like"),
    "a list for a label": (lines({"file_name": "a.png", "label": ["cat"]}), 'line 1: label must be a word or a number, got ["cat"]'),
    "a dictionary for a column": (lines({"file_name": "a.png", "label": "x", "c": {"d": 1}}), 'c must be a word or a number, got {"d": "1"}'),
    "no file_name in JSON": (lines({"label": "cat"}), "line 1: no file_name"),
    "a null for a file name": (lines({"file_name": None, "label": "cat"}), "line 1: no file_name"),
    "train without test": (classes("cat", "dog", below="train/"), "lacks test/ or val/: add it, or put the classes into"),
    "test without train": (classes("cat", "dog", below="test/"), "lacks train/: add it"),
    "a class beside train and test": (
        classes("cat", "dog", below="train/") | classes("cat", "dog", below="test/") | classes("cow"),
        "has cow/ beside train/ and test/: move it away",
    ),
    "test and val": (
        classes("cat", "dog", below="train/") | classes("cat", "dog", below="test/") | classes("cat", "dog", below="val/"),
        "has val/ beside train/ and test/: move it away",
    ),
    "an empty test": ({**classes("cat", "dog", below="train/"), "test/notes.txt": "x"}, "test needs a folder of images for each class"),
    "a train of one class": (classes("cat", below="train/") | classes("cat", "dog", below="test/"), "one class to train on (cat)"),
    "a test of other classes": (classes("cat", "dog", below="train/") | classes("cow", "pig", below="val/"), "has no images to test on"),
    "a table beside train and test": (
        {**classes("cat", "dog", below="train/"), **classes("cat", "dog", below="test/"), "metadata.csv": "file_name,label\ntrain/cat/0.png,x"},
        "metadata.csv lies beside train/ and test/: put a table into each",
    ),
    "two tables": ({**table(), **lines({"file_name": "a.png", "label": "x"})}, "has metadata.csv and metadata.jsonl: leave one"),
    "a table that is a folder": ({**PICTURES, "metadata.csv/x.txt": "x"}, "metadata.csv is not a file"),
    "Train and train": (
        classes("cat", "dog", below="Train/") | classes("cat", "dog", below="train/") | classes("cat", "dog", below="test/"),
        "has Train/ and train/: which of the two is meant",
    ),
    "a picture beside train and test": (
        {**classes("cat", "dog", below="train/"), **classes("cat", "dog", below="test/"), "x.png": PIXEL},
        "has x.png beside train/ and test/: move it away",
    ),
    "a name twice in JSON": (lines('{"file_name": "a.png", "label": "x", "label": "y"}'), "line 1: not JSON: ['file_name', 'label', 'label'] has a name twice"),
    "JSON too deep": (lines("[" * 100_000), "line 1: not JSON: "),
    "two images": (classes("cat", "dog", n=1), "has one class to train on"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_refused(name, tmp_path):
    files, message = REFUSED[name]
    lay(tmp_path, files)
    with pytest.raises(OSError) as said:
        for split in ("train", "test"):
            data.read(f"folder:{tmp_path}", split)
    assert message in str(said.value) and "\n" not in str(said.value) and str(tmp_path) in str(said.value)


def both(root):
    """Labels as words by file name, and what was left out, of both splits together."""
    found, left_out = {}, []
    for split in ("train", "test"):
        paths, known = data.read(f"folder:{root}", split)
        found |= {path.relative_to(root).as_posix(): known["class_names"][t] for path, t in zip(paths, known["labels"].tolist())}
        left_out += known["left_out"]
    return found, left_out


PLAIN = dict(row.split(",") for row in ROWS)
READ = {  # files, labels by file (None: as in ROWS), a pattern for each line of what is left out
    "commas": (table(), None, []),
    "semicolons": ({**PICTURES, "metadata.csv": table()["metadata.csv"].replace(",", ";")}, None, []),
    "tabs": ({**PICTURES, "metadata.tsv": table()["metadata.csv"].replace(",", "\t")}, None, []),
    "a mark of UTF-8": ({**PICTURES, "metadata.csv": table()["metadata.csv"].encode("utf-8-sig")}, None, []),
    "UTF-16": ({**PICTURES, "metadata.csv": table()["metadata.csv"].encode("utf-16")}, None, []),
    "lines as Windows ends them": ({**PICTURES, "metadata.csv": table()["metadata.csv"].replace("\n", "\r\n")}, None, []),
    "lines as an old Mac ended them": ({**PICTURES, "metadata.csv": table()["metadata.csv"].replace("\n", "\r")}, None, []),
    "no line end at the end": ({**PICTURES, "metadata.csv": table()["metadata.csv"].strip()}, None, []),
    "blank lines": ({**PICTURES, "metadata.csv": table()["metadata.csv"].replace("\n", "\n\n")}, None, []),
    "a row of blanks": (table(*ROWS[:3], " , ", *ROWS[3:]), None, []),
    "quotes": (table(*[f'"{row.split(",")[0]}","{row.split(",")[1]}"' for row in ROWS]), None, []),
    "spaces around": (table(*[row.replace(",", " , ") for row in ROWS]), None, []),
    "columns in another order": (table(*[f"x,{','.join(row.split(',')[::-1])}" for row in ROWS], header="y,label,file_name"), None, ["y says the same"]),
    "JSON lines": (lines(*[{"file_name": name, "label": label} for name, label in PLAIN.items()]), None, []),
    "numbers for labels": (
        lines(*[{"file_name": name, "label": len(label) + (label == "cat")} for name, label in PLAIN.items()]),
        {name: {"cat": "4", "dog": "3"}[label] for name, label in PLAIN.items()},
        [],
    ),
    "1 and 01": (
        table(*[f"{name},{'1' if label == 'cat' else '01'}" for name, label in PLAIN.items()]),
        {name: "1" if label == "cat" else "01" for name, label in PLAIN.items()},
        [],
    ),
    "007 and 7": (
        table(*[f"{name},{'007' if label == 'cat' else '7'}" for name, label in PLAIN.items()]),
        {name: "007" if label == "cat" else "7" for name, label in PLAIN.items()},
        [],
    ),
    "NA and None": (
        table(*[f"{name},{'NA' if label == 'cat' else 'None'}" for name, label in PLAIN.items()]),
        {name: "NA" if label == "cat" else "None" for name, label in PLAIN.items()},
        [],
    ),
    "nan and null": (
        table(*[f"{name},{'nan' if label == 'cat' else 'null'}" for name, label in PLAIN.items()]),
        {name: "nan" if label == "cat" else "null" for name, label in PLAIN.items()},
        [],
    ),
    "letters beyond ASCII": (
        table(*[f"{name},{'猫' if label == 'cat' else 'šuo'}" for name, label in PLAIN.items()]),
        {name: "猫" if label == "cat" else "šuo" for name, label in PLAIN.items()},
        [],
    ),
    "a line end in a label": (
        table(*[f'{name},"{label}\nx"' for name, label in PLAIN.items()]),
        {name: f"{label}\nx" for name, label in PLAIN.items()},
        [],
    ),
    "HTML for a class": (
        table(*[f"{name},{'<script>' if label == 'cat' else 'dog'}" for name, label in PLAIN.items()]),
        {name: "<script>" if label == "cat" else "dog" for name, label in PLAIN.items()},
        [],
    ),
    "blanks before quotes": (table(*[row.replace(",", ', "') + '"' for row in ROWS]), None, []),
    "1.1 and 1.10 in JSON": (
        lines(*[f'{{"file_name": "{name}", "label": {"1.1" if label == "cat" else "1.10"}}}' for name, label in PLAIN.items()]),
        {name: "1.1" if label == "cat" else "1.10" for name, label in PLAIN.items()},
        [],
    ),
    "a line separator of Unicode in JSON": (
        lines(*[json.dumps({"file_name": name, "label": f"{label}\u2028x"}, ensure_ascii=False) for name, label in PLAIN.items()]),
        {name: f"{label}\u2028x" for name, label in PLAIN.items()},
        [],
    ),
    "semicolons in a name of a column": (
        table(*[f'{row},"{i}"' for i, row in enumerate(ROWS)], header='file_name,label,"h; w; d; x"'), None, []
    ),
    "a column called path": (table(*[f"{row},/x/{i}" for i, row in enumerate(ROWS)], header="file_name,label,path"), None, []),
    "a row twice": (table(*ROWS, "a.png,cat"), None, ["line 12: a.png is listed twice"]),
    "a row without a file": (table(*ROWS, "z.png,cat"), None, ["line 12: z.png is not there"]),
    "a row without a label": (table(*ROWS[:9], "j.png,"), dict(list(PLAIN.items())[:9]), ["line 11: j.png has no label"]),
    "NaN for a label": (
        lines(*[f'{{"file_name": "{n}", "label": {json.dumps(t) if n != "j.png" else "NaN"}}}' for n, t in PLAIN.items()]),
        dict(list(PLAIN.items())[:9]),
        ["line 10: j.png has no label"],
    ),
    "a file without a row": (table(*ROWS[:9]), dict(list(PLAIN.items())[:9]), ["1 images have no row in .*, the first j.png"]),
    "a column that is the same for all": (table(*[f"{row},x" for row in ROWS], header="file_name,label,place"), None, ["place says the same"]),
    "classes": (classes("cat", "dog"), {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(5)}, []),
    "a class called train": (classes("train", "bus"), {f"{c}/{i}.png": c for c in ("train", "bus") for i in range(5)}, []),
    "deeper folders": (classes("cat/old", "dog/young"), {f"{c}/{i}.png": c.split("/")[0] for c in ("cat/old", "dog/young") for i in range(5)}, []),
    "a class that is a link": (
        {**classes("dog", "elsewhere/cat"), "cat": "-> elsewhere/cat"},
        {f"{c}/{i}.png": c.split("/")[0] for c in ("dog", "elsewhere/cat", "cat") for i in range(5)},
        [],
    ),
    "a link to above": ({**classes("cat", "dog"), "cat/again": "-> ."}, {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(5)}, []),
    "a link to nowhere": ({**classes("cat", "dog"), "cat/x.png": "-> nowhere"}, {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(5)}, ["1 files in .* are no images"]),
    "notes among the images": ({**classes("cat", "dog"), "cat/notes.txt": "x"}, {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(5)}, ["1 files in .* are no images, .* the first cat/notes.txt"]),
    "hidden files": ({**classes("cat", "dog"), ".x/1.png": PIXEL, "cat/._1.png": b"x", "__MACOSX/1.png": PIXEL}, {f"{c}/{i}.png": c for c in ("cat", "dog") for i in range(5)}, []),
    "large letters": ({f"{c}/{i}.PNG": PIXEL for c in ("cat", "dog") for i in range(5)}, {f"{c}/{i}.PNG": c for c in ("cat", "dog") for i in range(5)}, []),
    "Train and Valid": (
        classes("cat", "dog", below="Train/") | classes("cat", "dog", below="Valid/"),
        {f"{s}/{c}/{i}.png": c for s in ("Train", "Valid") for c in ("cat", "dog") for i in range(5)},
        [],
    ),
    "training and testing": (
        classes("cat", "dog", below="training/") | classes("cat", "dog", below="testing/"),
        {f"{s}/{c}/{i}.png": c for s in ("training", "testing") for c in ("cat", "dog") for i in range(5)},
        [],
    ),
    "a class that train lacks": (
        classes("cat", "dog", below="train/") | classes("cat", "cow", below="val/"),
        {f"{s}/{c}/{i}.png": c for s, c in (("train", "cat"), ("train", "dog"), ("val", "cat")) for i in range(5)},
        ["5 images to test are of classes that train lacks, the first 'cow'"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_folder_that_is_read_by_a_rule(name, tmp_path):
    files, expected, patterns = READ[name]
    found, left_out = both(lay(tmp_path, files))
    assert found == (PLAIN if expected is None else expected)
    assert len(left_out) == len(patterns) and all(map(re.search, patterns, left_out)), left_out
    assert all("\n" not in line for line in left_out)


def test_a_named_pipe_among_the_images_is_not_opened(tmp_path):
    lay(tmp_path, classes("cat", "dog"))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    found, left_out = both(tmp_path)
    assert len(found) == 10 and left_out == [f"1 files in {tmp_path} are no images, or do not have the names of images, the first cat/pipe.png"]
    rows = ["file_name,label", *(f"{name},{name[:3]}" for name in (*found, "cat/pipe.png"))]
    lay(tmp_path, {"metadata.csv": "\n".join(rows)})
    left_out = [line for split in ("train", "test") for line in data.load(f"folder:{tmp_path}", split).left_out]
    assert left_out == [f"{tmp_path / 'cat' / 'pipe.png'}: not a file"]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_left_out(mode, tmp_path):
    lay(tmp_path, classes("cat", "dog", n=8))
    for i in range(8):
        Image.fromarray(np.arange(64, dtype={"I": np.int32, "F": np.float32}[mode]).reshape(8, 8)).save(tmp_path / "cat" / f"wide{i}.tif")
    images = [data.load(f"folder:{tmp_path}", split) for split in ("train", "test")]
    left_out = [line for each in images for line in each.left_out]
    assert sum(map(len, images)) == 16 and len(left_out) == 8
    assert all("32 bits a channel, of a range that is not known: save it with 8 or 16" in line for line in left_out)


def test_what_comes_from_outside_is_shown_as_it_is(tmp_path):
    """A class called <script>, control characters in a name."""
    assert figures.markdown(pd.DataFrame({"<b>": ["<script>alert(1)</script>", "a|b\nc", "\x1b[2J"]})) == (
        "| &lt;b&gt; |\n| --- |\n| &lt;script&gt;alert(1)&lt;/script&gt; |\n| a\\|b c |\n| \\x1b[2J |"
    )
    lay(tmp_path, classes("<script>", "\x1b[2Jdog"))
    said = sheet.describe(f"folder:{tmp_path}")
    assert "\x1b" not in said and len(list(figures.folder("data").glob("*.png"))) == 1


WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}


@pytest.mark.parametrize("damage", ["empty", "half", "junk", "a flipped bit", "another's", "never sealed"])
def test_damaged_weights(damage, tmp_path):
    path = tmp_path / "encoder.safetensors"
    kept.save_weights(path, WEIGHTS)
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in kept.load_weights(path).items())
    content = path.read_bytes()
    damaged = {"empty": b"", "half": content[:60], "junk": b"junk" * 50, "a flipped bit": content[:-1] + bytes([content[-1] ^ 1])}
    damaged["another's"] = content.replace(b'"clsl":"1 ', b'"clsl":"2 ')
    damaged["never sealed"] = safetensors.torch.save(WEIGHTS)
    path.write_bytes(damaged[damage])
    with pytest.raises(kept.Damaged, match="^the weights .*encoder.safetensors are damaged"):
        kept.load_weights(path)
    assert [each.name for each in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_a_disk_that_fills_up(tmp_path):
    """While weights, a figure or a table is written: one line, and no half of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="encoder.safetensors cannot be written .File too large.: make room and run again"):
            kept.save_weights(tmp_path / "encoder.safetensors", {"w": torch.zeros(10_000)})
        with pytest.raises(OSError, match="File too large"):
            figures.save(plt.figure(), "03_x", "y", "test")
        lay(tmp_path, {"a/1.png": b"x", "b/1.png": b"x"})
        with pytest.raises(OSError, match="cannot write .*packed/.* .File too large.: make room, or set CLSL_DATA"):
            packing.pack("x-train", [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"], 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("*.safetensors")) and not list(figures.folder("test").glob("*.svg"))


def test_columns_stay_as_they_are_written(tmp_path):
    rows = [f"{row},{i % 3 - 1},{'Aa'[i % 2]},{('AA', 'Aa', 'aa')[i % 3]},{('Yes', 'no')[i % 2]}" for i, row in enumerate(ROWS)]
    lay(tmp_path, table(*rows, header="file_name,label,feeling,case,cases,indoors"))
    _, known = data.read(f"folder:{tmp_path}", "train")
    assert known["attribute_names"] == ("case=a", "indoors") and set(known["columns"]) == {"feeling", "cases"}
    assert len(known["columns"]["feeling"].unique()) == len(known["columns"]["cases"].unique()) == 3


def test_pictures_with_damaged_headers(tmp_path):
    lay(tmp_path, classes("cat", "dog"))
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "odd.png", exif=b"II*\0")
    os.symlink("itself.png", tmp_path / "cat" / "itself.png")
    images = [data.load(f"folder:{tmp_path}", split) for split in ("train", "test")]
    assert sum(map(len, images)) == 10 and sum(len(each.left_out) for each in images) == 2


def test_images_that_changed_are_trained_on_anew(tmp_path, capsys):
    """A run of a folder is that of what the folder held; a mended label orphans it, in one line."""
    lay(tmp_path / "own", table())
    chosen = Pretraining(dataset=f"folder:{tmp_path / 'own'}", epochs=1, batch_size=4, image_size=32)
    first = runs.get(chosen)
    assert runs.get(chosen).record == first.record and first.record["made_by"]["data"] == runs.state_of(chosen.dataset)
    rows = [row.replace("a.png,cat", "a.png,dog") for row in ROWS]
    (tmp_path / "own" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    capsys.readouterr()
    again = runs.get(chosen)
    assert again.record["made_by"]["data"] != first.record["made_by"]["data"]
    assert "was made of other images than folder:" in capsys.readouterr().err


def test_a_training_that_goes_on_elsewhere_says_so(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(runs, "_images", lambda *given: noise)
    chosen = Pretraining(epochs=1, batch_size=32)
    folder = runs._folder(chosen).with_suffix(".unfinished")
    folder.mkdir(parents=True)
    (folder / "origin.json").write_text(json.dumps({"data": None, "machines": [{"device": "another"}]}))
    assert runs.get(chosen).record["made_by"]["also_on"] == [{"device": "another"}]


def test_a_colour_that_is_the_same_everywhere(tmp_path):
    for name in lay(tmp_path, classes("cat", "dog")).rglob("*.png"):
        Image.new("RGB", (8, 8), (len(name.parent.name), 10, 10)).save(name)
    with pytest.raises(ValueError, match="have the same value of a colour everywhere"):
        data.load(f"folder:{tmp_path}", "train")


def test_a_path_of_300_characters(tmp_path):
    root = tmp_path / ("x" * 150) / ("y" * 150)
    lay(root, classes("cat", "dog"))
    assert "examples: " in sheet.describe(f"folder:{root}")


def test_an_attribute_that_happens_to_be_constant(tmp_path):
    rows = [f"{row},{'yes' if i == 0 else 'no'},{'yes' if i % 3 else 'no'}" for i, row in enumerate(ROWS)]
    lay(tmp_path, table(*rows, header="file_name,label,rare,common"))
    assert "clusters attributes:k=" in sheet.describe(f"folder:{tmp_path}")


KNOBS = [field for field in dataclasses.fields(Pretraining) if field.name != "clusters"]
NEVER = [float("nan"), float("inf"), -float("inf"), True, [], {}, "½", "", b"x", object(), 1 + 2j, -1, 2**70, "4 "]


@pytest.mark.parametrize("knob", KNOBS, ids=lambda field: field.name)
def test_a_knob_refuses_what_it_cannot_be(knob):
    """In one line with the name of the knob; what is taken is of its type and in its range."""
    for value in NEVER:
        try:
            chosen = getattr(Pretraining(**{knob.name: value}), knob.name)
        except ValueError as error:
            said = str(error)
            assert "\n" not in said and (knob.name in said or "data set" in said), said
            continue
        assert isinstance(chosen, knob.type) and (not isinstance(chosen, float) or math.isfinite(chosen)), (knob.name, value)
        assert chosen == value and value == -1 and False, (knob.name, value)  # none of these is right for any knob


FIELDS = {
    "lr: inf": ({"lr": math.inf}, "lr must be at most 1000, got inf"),
    "a temperature of nothing": ({"temperature": 0.0}, "temperature must be more than 0, got 0.0"),
    "a negative weight decay": ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
    "no images to train on": ({"train_size": 0}, "train_size must be at least 2, got 0"),
    "no images to test on": ({"test_size": 0}, "test_size must be at least 1, got 0"),
    "views of no pixel": ({"image_size": 0}, "image_size must be at least 8, got 0"),
    "a negative queue": ({"queue_size": -1}, "queue_size must be at least 1, got -1"),
    "a seed too large": ({"seed": 2**70}, "seed must be less than 2147483648, got 1180591620717411303424"),
    "half an epoch": ({"epochs": 0.5}, "epochs must be int, got 0.5"),
    "a batch of one": ({"batch_size": 1}, "batch_size must be at least 2"),
    "an unknown name": ({"epoch": 3}, "unknown field 'epoch': choose from dataset"),
    "a number for a name": ({3: 3}, "unknown field '3'"),
    "names of several kinds": ({3: 3, None: 1, "x": 2}, "unknown field '3'"),
    "an unknown method": ({"method": "simclr2"}, "unknown method 'simclr2': choose from simclr"),
    "an unknown encoder": ({"encoder": "vit"}, "unknown encoder 'vit': choose from tiny"),
    "an unknown data set": ({"dataset": "cifar11"}, "unknown data set 'cifar11': choose from cifar10"),
    "a path for a data set": ({"dataset": "/my/images"}, "folder:/my/images if it is a folder of your own"),
    "cifar10 with a colon": ({"dataset": "cifar10:"}, "cifar10 has no folder of its own"),
    "no clusters": ({"method": "cl_infonce"}, "cl_infonce needs clusters"),
    "clusters for SimCLR": ({"clusters": "labels"}, "simclr has clusters of its own (instances), not 'labels'"),
    "other clusters than k-means": ({"method": "pcl", "clusters": "labels"}, "pcl needs clusters made by k-means"),
    "a batch below what is whitened": ({"method": "w_mse", "batch_size": 64}, "batch_size must be more than the 64 dimensions"),
    "a queue below a batch": ({"method": "moco", "queue_size": 64}, "queue_size must be at least batch_size (128), got 64"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_configuration_that_is_refused(name):
    fields, message = FIELDS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        config.from_fields(fields)


FILES = {
    "a list": ("- epochs", "must hold NAME: VALUE lines, got a list"),
    "nothing": ("", "must hold NAME: VALUE lines, got a NoneType"),
    "broken YAML": ("epochs: [", "is neither YAML nor JSON"),
    "a field twice": ("epochs: 3\nepochs: 4", "has epochs twice"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "is neither YAML nor JSON"),
    "code": ("!!python/object/apply:os.system ['true']", "is neither YAML nor JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_configuration_that_is_refused(name, tmp_path):
    content, message = FILES[name]
    (tmp_path / "x.yml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(message)) as said:
        config.read(tmp_path / "x.yml")
    assert "\n" not in str(said.value)


u, v, z = torch.ones(4, 3), torch.ones(4, 3), torch.arange(4)
nan, half = torch.full((4, 3), math.nan), torch.ones(2, 3)
cats = [wordnet.synset("cat"), wordnet.synset("dog")]
t4 = np.arange(4)
TABLE = pd.DataFrame([{"method": name, "clusters": "x", "setting": name, "config": f"{name}-0", "top1": 1.0} for name in "ab"])
COMPARED = pd.DataFrame([{"claim": "A1", "comparison": "a > b", "a": "a", "b": "b", "experiment": "x"}])
EACH = {"claim": "A1", "words": "a > b", "a": {"method": "a"}, "b": {"method": "b"}}
CALLS = {
    "cl_infonce, two lengths": (lambda: losses.cl_infonce(u, half, z), "one shape, got (4, 3) and (2, 3)"),
    "cl_infonce, ids too few": (lambda: losses.cl_infonce(u, v, z[:2]), "z must hold 4 integer cluster ids"),
    "cl_infonce, ids that are no integers": (lambda: losses.cl_infonce(u, v, z.float()), "z must hold 4 integer cluster ids"),
    "cl_infonce, NaN": (lambda: losses.cl_infonce(nan, v, z), "the projections hold NaN or infinity"),
    "cl_infonce, one dimension": (lambda: losses.cl_infonce(u[0], v[0], z), "floating tensors [N, D]"),
    "cl_infonce, integers": (lambda: losses.cl_infonce(u.long(), v.long(), z), "floating tensors [N, D]"),
    "cl_infonce, nothing": (lambda: losses.cl_infonce(u[:0], v[:0], z[:0]), "floating tensors [N, D]"),
    "cl_infonce, temperature 0": (lambda: losses.cl_infonce(u, v, z, 0.0), "temperature must be positive and finite, got 0.0"),
    "cl_infonce, temperature below 0": (lambda: losses.cl_infonce(u, v, z, -1.0), "temperature must be positive and finite"),
    "cl_infonce, temperature NaN": (lambda: losses.cl_infonce(u, v, z, math.nan), "temperature must be positive and finite"),
    "cl_infonce, temperature inf": (lambda: losses.cl_infonce(u, v, z, math.inf), "temperature must be positive and finite, got inf"),
    "info_nce, two lengths": (lambda: losses.info_nce(u, half), "one shape, got (4, 3) and (2, 3)"),
    "info_nce, NaN": (lambda: losses.info_nce(nan, v), "the projections hold NaN or infinity"),
    "info_nce, temperature 0": (lambda: losses.info_nce(u, v, temperature=0.0), "temperature must be positive and finite"),
    "info_nce, ids too few": (lambda: losses.info_nce(u, v, z[:2]), "z must hold 4 integer cluster ids"),
    "byol, two shapes": (lambda: losses.byol(u, half), "of one shape, got (4, 3) and (2, 3)"),
    "barlow_twins, two shapes": (lambda: losses.barlow_twins(u, half), "of one shape, got (4, 3) and (2, 3)"),
    "w_mse, a batch too small": (lambda: losses.w_mse(u[:3], v[:3]), "whitening 3 dimensions needs a batch of more"),
    "w_mse, collapsed": (lambda: losses.w_mse(u, v), "covariance has no inverse"),
    "entropy of fractions": (lambda: information.entropy(t4 / 2), "1-D array of integers, got float64"),
    "entropy of nothing": (lambda: information.entropy(t4[:0]), "non-empty 1-D array of integers"),
    "entropy of a table": (lambda: information.entropy(t4.reshape(2, 2)), "1-D array of integers, got int64 of shape (2, 2)"),
    "information of two lengths": (lambda: information.mutual_information(t4, t4[:2]), "the same images, got 4 and 2 ids"),
    "what is left, of two lengths": (lambda: information.conditional_entropy(t4, t4[:2]), "the same images"),
    "parts of two lengths": (lambda: information.partial_information(t4, t4[:2], t4), "the same images"),
    "a noun that is none": (lambda: wordnet.synset("xyzzy"), "WordNet has no noun 'xyzzy'"),
    "a wnid that is none": (lambda: wordnet.synset("n99999999"), "WordNet has no noun 'n99999999'"),
    "an empty noun": (lambda: wordnet.synset(""), "WordNet has no noun ''"),
    "a hierarchy of nothing": (lambda: wordnet.Hierarchy([]), "needs at least one synset"),
    "a hierarchy of verbs": (lambda: wordnet.Hierarchy([wordnet._corpus().synset("run.v.01")]), "is made of nouns, got run.v.01"),
    "a level below 0": (lambda: wordnet.Hierarchy(cats).at(-1), "level -1 is out of range: this hierarchy has levels 0 to"),
    "a level too deep": (lambda: wordnet.Hierarchy(cats).show(99), "level 99 is out of range"),
    "labels below 0": (lambda: clusters.from_wordnet(cats, torch.tensor([-1, 0]), 4), "integers [N] from 0 to 1, one a synset, got [-1, 0]"),
    "labels above": (lambda: clusters.from_wordnet(cats, torch.tensor([0, 2]), 4), "integers [N] from 0 to 1"),
    "labels that are fractions": (lambda: clusters.from_labels(u[0]), "1-D integer tensor, got torch.float32"),
    "no labels": (lambda: clusters.from_labels(z[:0]), "non-empty 1-D integer tensor"),
    "no instances": (lambda: clusters.from_instances(0), "at least one image, got 0"),
    "attributes that are not binary": (lambda: clusters.from_attributes(2 * torch.ones(4, 3), 1), "attributes must be 0 or 1"),
    "more attributes than there are": (lambda: clusters.from_attributes(torch.eye(4), 5), "between 1 and the number of attributes, 4, got 5"),
    "attributes that tell nothing": (lambda: clusters.from_attributes(torch.ones(4, 2), 1), "is the same for every image"),
    "k-means of NaN": (lambda: clusters.from_kmeans(nan, 2, 0), "needs finite features"),
    "k-means of more than there are": (lambda: clusters.from_kmeans(u, 5, 0), "k must be between 1 and the number of images, 4, got 5"),
    "k-means of none": (lambda: clusters.from_kmeans(u, 0, 0), "k must be between 1 and the number of images"),
    "merged backward": (lambda: clusters.merged(z, -1, 0), "steps must not be negative, got -1"),
    "split backward": (lambda: clusters.split(z, -1, 0), "depth must not be negative, got -1"),
    "permuted among more than all": (lambda: clusters.permuted(z, z, 5, 0), "classes must be between 0 and 4, got 5"),
    "an encoder that is none": (lambda: encoders.build("vit"), "unknown encoder 'vit'"),
    "an encoder of no pixels": (lambda: encoders.build("tiny", 0), "image_size must be at least 8 pixels, got 0"),
    "views of floats": (lambda: augment.two_views(torch.ones(2, 3, 8, 8), (0,) * 3, (1,) * 3, torch.Generator()), "images must be uint8 [N, 3, S, S]"),
    "views of channels last": (lambda: augment.two_views(torch.ones(2, 8, 8, 3, dtype=torch.uint8), (0,) * 3, (1,) * 3, torch.Generator()), "uint8 [N, 3, S, S]"),
    "a probe of NaN": (lambda: evaluate.lbfgs_probe(nan, z, u), "features must be finite"),
    "a probe of other dimensions": (lambda: evaluate.lbfgs_probe(u, z, torch.ones(4, 2)), "got shapes (4, 3) and (4, 2)"),
    "a probe without labels": (lambda: evaluate.lbfgs_probe(u, z[:2], v), "labels must be 4 integers"),
    "neighbours without labels": (lambda: evaluate.knn(u, z - 1, v), "labels must be 4 integers from 0"),
    "an unknown split": (lambda: data.load("cifar10", "valid"), "unknown split 'valid': choose train, held_out or test"),
    "more than there are": (lambda: data.load("cifar10", "test", 10_001), "size 10001 is out of range: cifar10 test has 10000 images"),
    "fewer than one": (lambda: data.load("cifar10", "test", 0), "size 0 is out of range"),
    "a folder without a name": (lambda: data.load("folder:", "train"), "'folder:' names no folder"),
    "verdicts on NaN": (lambda: claims.judged(COMPARED, TABLE.assign(top1=math.nan)), "results hold numbers that are not finite: a-0"),
    "a comparison by a column that is not there": (lambda: claims.named(TABLE, [{**EACH, "a": {"x": 1}}]), "asks for a column 'x'"),
    "an unknown claim": (lambda: claims.named(TABLE, [{**EACH, "claim": "C9"}]), "unknown claim 'C9': choose from A1"),
    "no devices": (lambda: runs.get(Pretraining(), devices=0), "devices must be at least 1"),
    "too many devices": (lambda: runs.get(Pretraining(), devices=999), "devices must be at least 1 and at most"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_refused(name):
    call, message = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as said:
        call()
    assert "\n" not in str(said.value)


SPECS = {
    "wordnet": "a wrong, missing or extra option",
    "wordnet:level": "a wrong, missing or extra option",
    "wordnet:level=": "a wrong, missing or extra option",
    "wordnet:level=four": "a wrong, missing or extra option",
    "wordnet:level=4.5": "a wrong, missing or extra option",
    "wordnet:level=-1": "a wrong, missing or extra option",
    "wordnet:level=４": "a wrong, missing or extra option",
    "wordnet:level= 4": "a wrong, missing or extra option",
    "wordnet:level=4,": "a wrong, missing or extra option",
    "wordnet:level=4,level=5": "have the option level twice",
    "wordnet:depth=4": "a wrong, missing or extra option",
    "wordnet:level=4,depth=2": "a wrong, missing or extra option",
    "words:level=4": "unknown clusters 'words:level=4': choose from instances",
    "": "unknown clusters ''",
    ":": "unknown clusters ':'",
    "column:": "come without a column ''",
    "column:year": "come without a column 'year'",
    "tags:level=4": "clusters from tags need images that come with them",
    "attributes:k=6": "between 1 and the number of attributes, 5, got 6",
    "attributes:k=0": "between 1 and the number of attributes",
    "annotators:k=2,noise=10": "clusters from WordNet need class names that WordNet knows",
    "kmeans:k=97": "k must be between 1 and the number of images, 96, got 97",
    "kmeans:k=0": "k must be between 1 and the number of images",
    "kmeans:k=99999999999999999999": "k must be between 1 and the number of images",
    "kmeans:k=4": "has no clusters yet: a training makes them",
    "permuted:depth=2": "a wrong, missing or extra option",
    "permuted:depth=2,classes=5": "classes must be between 0 and 4, got 5",
}


@pytest.mark.parametrize("spec", SPECS)
def test_clusters_that_are_refused(spec, noise):
    with pytest.raises(ValueError, match=re.escape(SPECS[spec])) as said:
        clusters.make(spec, noise)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("spec", ["merged:steps=1000000000", "split:depth=1000000000"])
def test_clusters_that_would_take_for_ever(spec, noise):
    assert len(clusters.make(spec, noise).unique()) in (1, 96)
