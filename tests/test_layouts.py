"""Miniature copies of each data set's real layout: read, packed, trained on."""

import csv
import dataclasses
import hashlib
import json
import os
import pickle
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from clsl import ROOT, clusters, data, information, runs, wordnet
from clsl.config import Pretraining
from clsl.data import downloads, layouts, packing
from clsl.lab import figures, profiles, reproduce, sheet

OFFICIAL = ROOT.parent / "shared" / "data" / "official"


def picture(path, size=(90, 60), mode="RGB", **options):
    """A small picture of noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path.name).encode())).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


def imagenet100(folder, flat=None):
    wnids = layouts.imagenet100_wnids()
    for wnid in wnids + ["n00000001"]:  # and one that is not among the hundred
        for i in range(2):
            picture(folder / "train" / wnid / f"{wnid}_{i}.JPEG")
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 103)]
    truth = [*wnids, "n00000001", wnids[0]]
    for name, wnid in zip(names, truth):
        picture(folder / "val" / ("" if flat else wnid) / f"{name}.JPEG")
    if flat == "kaggle":
        with open(folder / "LOC_val_solution.csv", "w", newline="") as file:
            csv.writer(file).writerows([["ImageId", "PredictionString"], *([n, f"{w} 1 2 3 4"] for n, w in zip(names, truth))])
    if flat == "devkit":
        from scipy.io import savemat

        known = [*reversed(wnids), "n00000001"]  # the ids are in no order of wnids
        kit = folder / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
        synsets = np.array([(i, wnid, "tench, Tinca", "a fish") for i, wnid in enumerate(known, 1)], dtype=fields)
        savemat(kit / "meta.mat", {"synsets": synsets[:, None]}, do_compression=True)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{known.index(w) + 1}\n" for w in truth))
    return "wordnet:level=5"


def tinyimagenet(folder):
    root, wnids = folder / "tiny-imagenet-200", ["n02124075", "n01443537", "n04146614"]
    for wnid in wnids:
        for i in range(8):
            picture(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64))
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    for i in range(6):
        picture(root / "val" / "images" / f"val_{i}.JPEG", (64, 64))
    lines = [f"val_{i}.JPEG\t{wnids[i % 3]}\t0\t32\t44\t62\n" for i in range(6)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return "wordnet:level=4"


def cub200(folder):
    root, n = folder / "CUB_200_2011", 24
    names = [f"{i % 4 + 1:03d}.Bird_{i % 4}/Bird_{i}.jpg" for i in range(n)]
    for name in names:
        picture(root / "images" / name)
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {(i - 1) % 4 + 1}\n" for i in range(1, n + 1)))
    (root / "train_test_split.txt").write_text("".join(f"{i} {int(i <= 16)}\n" for i in range(1, n + 1)))
    (root / "classes.txt").write_text("".join(f"{i} {i:03d}.Bird_{i - 1}\n" for i in range(1, 5)))
    (root / "attributes").mkdir()
    (folder / "attributes.txt").write_text("".join(f"{a} has_part::{a}\n" for a in range(1, 313)))
    bits = np.random.default_rng(0).integers(0, 2, (n, 312))
    lines = [f"{i + 1} {a + 1} {bits[i, a]} 3 1.5{' 0 9' if a == 7 else ''}\n" for i in range(n) for a in range(312)]
    (root / "attributes" / "image_attribute_labels.txt").write_text("".join(lines))
    return "attributes:k=2"


def utzappos50k(folder):
    rows, kinds = [], ("Shoes/Heels", "Shoes/Oxfords", "Boots/Ankle")
    for i in range(30):
        picture(folder / "ut-zap50k-images-square" / kinds[i % 3] / "A Brand" / f"{100 + i}.72.jpg")
        rows.append([f"{100 + i}-72", int(i % 3 < 2), int(i % 3 == 0), i % 2, i // 2 % 2])
    columns = ["CID", "Category.Shoes", "SubCategory.Heels", "Closure.Buckle", "Gender.Women"]
    (folder / "ut-zap50k-data").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(folder / "ut-zap50k-data" / "meta-data-bin.csv", index=False)
    return "attributes:k=2"


def wider(folder):
    for split, n in (("trainval", 20), ("test", 10)):
        entries = []
        for i in range(n):
            part = "test" if split == "test" else ("train", "val")[i % 2]
            picture(folder / "Image" / part / "0--Parade" / f"{split}{i}.jpg")
            people = [{"attribute": [1 if (i + a + p) % 3 == 0 else (0, -1)[a % 2] for a in range(14)]} for p in range(i % 3)]
            entries.append({"targets": people, "file_name": f"{part}/0--Parade/{split}{i}.jpg", "scene_id": i % 4})
        maps = {"attribute_id_map": {str(a): f"a{a}" for a in range(14)}, "scene_id_map": {str(c): f"s{c}" for c in range(4)}}
        (folder / "Anno").mkdir(exist_ok=True)
        (folder / "Anno" / f"wider_attribute_{split}.json").write_text(json.dumps({"images": entries, **maps}))
    return "attributes:k=2"


def metadata(folder):
    for split, n in (("train", 24), ("test", 8)):
        rows = [[i, f"{i % 3}/{split}{i}.jpg", i % 3 + 1, i % 2, i % 6] for i in range(n)]
        for row in rows:
            picture(folder / row[1])
        table = pd.DataFrame(
            rows + [[-1, "num_per_label_gran", 3, 2, 6]], columns=["", "path", "class", "label_gran_3", "label_gran_7"]
        )
        table.set_index("").to_csv(folder / f"mini_meta_data_{split}.csv")
    return "column:label_gran_7"


def folder(folder):
    for i in range(30):
        picture(folder / ("cat", "dog", "truck")[i % 3] / f"{i}.png")
    return "wordnet:level=9"


MAKERS = {f.__name__: f for f in (imagenet100, tinyimagenet, cub200, utzappos50k, wider, metadata, folder)}
SIZES = {
    "imagenet100": (200, 101),
    "tinyimagenet": (24, 6),
    "cub200": (16, 8),
    "utzappos50k": (21, 9),
    "wider": (20, 10),
    "metadata": (24, 8),
    "folder": (24, 6),
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """Packed images go to a temporary folder; WordNet is taken from the usual one."""
    wordnet.synset("cat")
    monkeypatch.setenv("CLSL_DATA", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("name", MAKERS)
def test_each_layout_is_read_and_trained_on(name, tmp_path):
    spec = MAKERS[name](tmp_path / name)
    train, test = (data.load(f"{name}:{tmp_path / name}", split) for split in ("train", "test"))
    assert (len(train), len(test)) == SIZES[name] and train.images.shape[1:] == (64, 64, 3) and not train.left_out
    aspect = 1 if name == "tinyimagenet" else 1.5
    assert train.aspects.tolist() == pytest.approx([aspect] * len(train), abs=0.05) and test.class_names == train.class_names
    assert train.mean == test.mean and train.labels.max() < len(train.class_names)
    config = dict(dataset=f"{name}:{tmp_path / name}", epochs=1, batch_size=8, image_size=48)
    run = runs.get(Pretraining(method="cl_infonce", clusters=spec, **config))
    assert 0 <= run.result["top1"] <= 100 and run.result["num_clusters"] == len(clusters.make(spec, train).unique())


def test_cub_attributes_and_split(tmp_path):
    cub200(tmp_path)
    train = data.load(f"cub200:{tmp_path}", "train")
    bits = np.random.default_rng(0).integers(0, 2, (24, 312))
    assert (train.attributes.numpy() == bits[:16]).all()  # the lines with too many fields too
    assert train.attribute_names[:2] == ("has_part::1", "has_part::2") and train.class_names[0] == "Bird 0"
    assert train.labels.tolist() == [i % 4 for i in range(16)]


@pytest.mark.parametrize("name, inner", [("cub200", "CUB_200_2011"), ("tinyimagenet", "tiny-imagenet-200")])
def test_the_unpacked_folder_may_be_named_itself(name, inner, tmp_path):
    MAKERS[name](tmp_path)
    for split in ("train", "test"):
        (outer, known), (paths, fields) = (data.read(f"{name}:{path}", split) for path in (tmp_path, tmp_path / inner))
        assert outer == paths and torch.equal(known["labels"], fields["labels"])
        assert known["class_names"] == fields["class_names"]


def test_zappos_leaves_the_label_out_of_the_attributes(tmp_path):
    utzappos50k(tmp_path)
    train, test = (data.load(f"utzappos50k:{tmp_path}", split) for split in ("train", "test"))
    assert train.attribute_names == ("Closure.Buckle", "Gender.Women")
    assert train.class_names == ("Boots/Ankle", "Shoes/Heels", "Shoes/Oxfords")
    rows = [["", "path", "class"], [0, "Shoes/Heels/A Brand/100.72.jpg", 1], [-1, "num_per_label_gran", 1]]
    for split in ("train", "test"):  # the authors' split, where it is given
        with open(tmp_path / f"meta_data_{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    train = data.load(f"utzappos50k:{tmp_path}", "train")
    assert len(train) == 1 and train.class_names[train.labels[0]] == "Shoes/Heels"
    assert train.attributes.tolist() == [[False, False]]


def test_wider_gives_an_image_what_any_of_its_people_has(tmp_path):
    wider(tmp_path)
    train = data.load(f"wider:{tmp_path}", "train")
    assert not train.attributes[0].any()  # nobody there
    assert train.attributes[1].tolist() == [(1 + a) % 3 == 0 for a in range(14)]
    assert train.attributes[2].tolist() == [(2 + a) % 3 == 0 or (3 + a) % 3 == 0 for a in range(14)]


def test_the_classes_of_a_whole_imagenet_are_its_folders(tmp_path):
    imagenet100(tmp_path, flat="kaggle")
    (tmp_path / "train" / "n00000001").rename(tmp_path / "train" / "n02085620")  # chihuahua, not among the hundred
    train, test = (data.read(f"imagenet:{tmp_path}", split) for split in ("train", "test"))
    assert len(train[1]["class_names"]) == 101 and "Chihuahua" in train[1]["class_names"]
    assert len(train[0]) == 202 and len(test[0]) == 101 and train[1]["class_names"] == test[1]["class_names"]


@pytest.mark.parametrize("flat", [None, "kaggle", "devkit"])
def test_imagenets_validation_images(flat, tmp_path):
    imagenet100(tmp_path, flat)
    test = data.load(f"imagenet100:{tmp_path}", "test", image_size=16)
    assert sorted(test.labels.tolist()) == sorted([*range(100), 0])
    if flat:  # in the order of their names
        assert test.labels.tolist() == [*range(100), 0]
    assert test.class_names[1] == "goldfinch" and len(test.synsets) == 100
    if flat == "kaggle":
        (tmp_path / "LOC_val_solution.csv").unlink()
        with pytest.raises(OSError, match="flat val/ without its ground truth"):
            data.load(f"imagenet100:{tmp_path}", "test", image_size=16)


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the authors' files are not beside this checkout")
def test_the_authors_metadata(tmp_path):
    os.symlink(OFFICIAL / "cub_meta_data_train.csv", tmp_path / "cub_meta_data_train.csv")
    paths, known = data.read(f"metadata:{tmp_path}", "train")
    stats = pd.read_csv(OFFICIAL / "cub_meta_data_train_stats.csv", index_col=0)
    assert len(paths) == len(known["labels"]) == 5994 and len(known["class_names"]) == 200
    assert set(stats.index) == {"class", "instance_id", *known["columns"]}
    each = {"class": known["labels"], "instance_id": clusters.from_instances(5994)} | known["columns"]
    for name, z in each.items():
        assert information.conditional_entropy(z, given=known["labels"]) == pytest.approx(stats["H(Y|T)"][name], abs=1e-9)
        assert information.mutual_information(z, known["labels"]) == pytest.approx(stats["I(Y;T)"][name], abs=1e-9)


def test_a_folder_described_by_a_table(tmp_path):
    rows = []
    for i in range(20):
        picture(tmp_path / f"{i}.jpg")
        rows.append(
            {
                "file_name": f"{i}.jpg",
                "label": f"kind {i % 2}",
                "indoors": ("yes", "no")[i % 2],
                "sharp": i % 3 == 0,
                "sex": ("male", "female", None)[i % 3],
                "noun": ("tiger", "table", "xyzzy")[i % 3],
                "year": 2000 + i % 4,
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    train = data.load(f"folder:{tmp_path}", "train")
    assert len(train) == 16 and train.attribute_names == ("indoors", "sharp", "sex=male") and train.synsets is None
    files = data.read(f"folder:{tmp_path}", "train")[0]
    i = [int(path.stem) for path in files]
    assert train.attributes.tolist() == [[j % 2 == 0, j % 3 == 0, j % 3 == 0] for j in i]
    assert train.tags == tuple(rows[j]["noun"] for j in i) and set(train.columns) == {"noun", "year", "noun and year"}
    assert train.labels.tolist() == [j % 2 for j in i]
    z = clusters.make("column:year", train)
    assert len(z.unique()) == 4
    with pytest.raises(ValueError, match="come without a column 'month': they have noun, year"):
        clusters.make("column:month", train)
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({k: v and str(v) for k, v in row.items()}) + "\n" for row in rows)
    )
    again = data.load(f"folder:{tmp_path}", "train")
    assert again.tags == train.tags and (again.attributes == train.attributes).all()
    said = sheet.describe(f"folder:{tmp_path}")
    assert "attributes: indoors, sharp, sex=male" in said and "no nouns of WordNet: xyzzy\n" in said
    with pytest.raises(ValueError, match="kmeans:k=5 has no clusters yet: a training makes them"):
        sheet.describe(f"folder:{tmp_path}", "kmeans:k=5")


def test_train_and_test_folders(tmp_path):
    for split, n in (("train", 6), ("val", 4)):
        for i in range(n):
            picture(tmp_path / split / ("a", "b")[i % 2] / f"{i}.jpg")
    assert [len(data.load(f"folder:{tmp_path}", split)) for split in ("train", "test")] == [6, 4]


def test_clusters_from_tags(noise):
    nouns = ("tiger", "wolf", "table", "xyzzy")
    classes = tuple(wordnet.synset(name) for name in ("lion.n.01", "chair.n.01"))
    tagged = dataclasses.replace(noise, tags=tuple(nouns[i % 4] for i in range(96)), synsets=classes)
    z = clusters.make("tags:level=9", tagged)
    assert len(z[:4].unique()) == 3 and z[0] == z[1]  # tiger and wolf are carnivores, not a person and a composer
    assert len(clusters.make("tags:level=0", tagged).unique()) == 1
    with pytest.raises(ValueError, match="clusters from tags need images that come with them"):
        clusters.make("tags:level=2", noise)


def test_odd_files_become_rgb(tmp_path):
    gray = np.linspace(0, 255, 60 * 40).reshape(40, 60)
    Image.fromarray((gray * 257).astype(np.uint16)).save(tmp_path / "sixteen.png")
    Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "one.png")
    colour = Image.fromarray(np.stack([gray, 255 - gray, gray / 2], -1).astype(np.uint8))
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    colour.convert("RGBA").save(tmp_path / "alpha.png")
    colour.quantize(64).save(tmp_path / "palette.gif")
    expected = np.asarray(colour.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    for name in ("cmyk.jpg", "alpha.png", "palette.gif"):
        pixels, aspect = packing.decode(tmp_path / name, 32)
        assert np.abs(pixels - expected).mean() < 8 and aspect == pytest.approx(1.5)
    one, sixteen = (packing.decode(tmp_path / f"{name}.png", 32)[0].astype(int) for name in ("one", "sixteen"))
    assert np.abs(one - sixteen).max() <= 1 and one.max() > 250 and (one[..., 0] == one[..., 2]).all()


def test_a_photograph_on_its_side_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right to see it upright
    half = np.zeros((40, 60, 3), np.uint8)
    half[:, :30] = 255
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif)
    pixels, aspect = packing.decode(tmp_path / "turned.jpg", 32)
    assert aspect == pytest.approx(2 / 3) and pixels[:10].mean() > 240 and pixels[-10:].mean() < 15


def test_what_cannot_be_read_is_left_out_and_named(tmp_path):
    folder(tmp_path)
    whole = picture(tmp_path / "cat" / "whole.jpg", (300, 300))
    (tmp_path / "cat" / "cut.jpg").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "dog" / "empty.png").touch()
    (tmp_path / "dog" / "words.jpg").write_text("not an image")
    everything = [data.load(f"folder:{tmp_path}", split) for split in ("train", "test")]
    left_out = sorted(line for images in everything for line in images.left_out)
    assert sum(map(len, everything)) == 31 and len(left_out) == 3
    assert "cut.jpg: image file is truncated" in left_out[0] and left_out[1].endswith("empty.png: an empty file")
    assert "words.jpg: cannot identify image file" in left_out[2]
    run = runs.get(Pretraining(dataset=f"folder:{tmp_path}", epochs=1, batch_size=8))
    assert sorted(run.result["left_out"]) == left_out


def test_none_that_can_be_read(tmp_path):
    for i in range(10):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / f"{i}.jpg").touch()
    with pytest.raises(OSError, match="none of 8 images can be read, the first of them .*jpg: an empty file"):
        data.load(f"folder:{tmp_path}", "train")
    for i in range(8):
        picture(tmp_path / "ab"[i % 2] / f"{i}.jpg")
    assert sum(len(data.load(f"folder:{tmp_path}", split).left_out) for split in ("train", "test")) == 2


def test_packed_once_and_again_when_a_file_has_changed(tmp_path, monkeypatch):
    folder(tmp_path)
    decoded, decode = [], packing.decode
    monkeypatch.setattr(packing, "decode", lambda path, side: decoded.append(path) or decode(path, side))
    first = data.load(f"folder:{tmp_path}", "train")
    assert len(decoded) == 24 and isinstance(first.images, np.memmap)
    assert (data.load(f"folder:{tmp_path}", "train").images == first.images).all() and len(decoded) == 24
    picture(tmp_path / "cat" / "0.png", (40, 90))
    for split in ("train", "test"):
        data.load(f"folder:{tmp_path}", split)
    assert len(decoded) in (24 + 6, 24 + 24 + 6)  # the picture is in either split


def test_a_disk_too_small(tmp_path, monkeypatch):
    folder(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e5}))
    with pytest.raises(OSError, match="folder-train needs 0.0 GB in .*, which has 0.0: set CLSL_DATA to a larger disk"):
        data.load(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize(
    "name, message",
    [
        ("cub200", "cub200 is looked for in .*cub200, which is not there: put it there .CUB_200_2011.tgz, "),
        ("imagenet100:/nowhere", "imagenet100 is looked for in /nowhere, which is not there"),
        ("wider:{}", "lacks wider_attribute_trainval.json: unpack"),
        ("cub200:{}", "lacks images.txt and 5 more"),
        ("imagenet100:{}", "lacks n01496331 and 99 more"),
        ("utzappos50k:{}", "lacks ut-zap50k-images-square$"),
        ("metadata:{}", "has no file whose name ends in meta_data_train.csv"),
        ("folder:{}", "needs a folder of images for each class, or a metadata.csv"),
    ],
)
def test_what_is_missing_is_said(name, message, tmp_path):
    with pytest.raises(OSError, match=message):
        data.load(name.format(tmp_path), "train")


def cifar100(folder, monkeypatch):
    """The official archive with 300 and 100 images of noise, unpacked where torchvision looks for it."""
    kit, generator = folder / "cifar-100-python", np.random.default_rng(0)
    kit.mkdir(parents=True)
    names = sorted([*"apple bear chair rocket tiger rose sea train whale".split(), "maple_tree"])
    contents = {"meta": {"fine_label_names": names, "coarse_label_names": ["a", "b"]}}
    for split, n in (("train", 300), ("test", 100)):
        fine = [i % 10 for i in range(n)]
        contents[split] = {
            "data": generator.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": fine,
            "coarse_labels": [t // 5 for t in fine],
            "filenames": [f"{('young_' if i % 3 else '')}{names[t]}_s_{i:06d}.png" for i, t in enumerate(fine)],
        }
    for name, content in contents.items():
        (kit / name).write_bytes(pickle.dumps(content))
    md5 = {name: hashlib.md5((kit / name).read_bytes()).hexdigest() for name in contents}
    official = torchvision.datasets.CIFAR100
    monkeypatch.setattr(official, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(official, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": md5["meta"]})
    return contents


def test_cifar100(tmp_path, monkeypatch):
    contents = cifar100(downloads.cache(), monkeypatch)
    train, test = data.load("cifar100", "train"), data.load("cifar100", "test")
    assert (len(train), len(test)) == (300, 100) and train.class_names[3] == "maple tree"
    names = contents["train"]["filenames"]
    order = sorted(range(300), key=lambda i: (names[i], i % 10))  # the images come in the order of their file names
    assert train.images[5, 2, 7].tolist() == contents["train"]["data"][order[5]].reshape(3, 32, 32)[:, 2, 7].tolist()
    assert [s.name() for s in train.synsets][3] == "maple.n.02" and train.labels.tolist() == [order[i] % 10 for i in range(300)]
    assert train.tags[:2] == ("apple", "apple") and train.tags[-1] == names[order[-1]].split("_s_")[0].replace("_", " ")
    assert train.columns["superclass"].tolist() == [contents["train"]["coarse_labels"][i] for i in order]
    assert len(clusters.make("column:superclass", train).unique()) == 2
    picked = train.subset(torch.tensor([9, 1])).columns["superclass"].tolist()
    assert picked == [train.columns["superclass"][i].item() for i in (9, 1)]


def test_a_cifar100_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/x.tar.gz")
    with pytest.raises(
        OSError, match="cifar100 could not be fetched .*: go online, or unpack cifar-100-python.tar.gz yourself"
    ):
        data.load("cifar100", "train")


SHORT = "-p epochs 1 -p batch_size 8 -p train_size null -p test_size null -p image_size 32".split()
TREE = "03 -p levels [5] -p other_levels [5] -p lengths [1] -p race [wordnet:level=5]".split()
SHALLOW = "03 -p levels [4] -p other_levels [4] -p lengths [1] -p race [wordnet:level=4]".split()
TICKS = "04 -p ks [2] -p other_ks [2] -p noise_k 2".split()
NOTEBOOK = {
    "cifar100": TREE,
    "imagenet100": TREE,
    "tinyimagenet": SHALLOW,
    "cub200": TICKS,
    "utzappos50k": TICKS,
    "wider": TICKS,
    "metadata": "07 -p merges [1] -p depths [2] -p shuffled_classes [2] -p other_clusters [column:label_gran_7]".split(),
    "folder": "05 -p clusters_k 4 -p other_clusters_k [2]".split(),
}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The tidy table of every layout, each read by a notebook, one after the other in one kernel."""
    root, tables = tmp_path_factory.mktemp("reproduced"), {}
    (root / "cache").mkdir()
    wordnet.synset("cat")
    if (usual := downloads.cache() / "nltk_data").exists():
        os.symlink(usual, root / "cache" / "nltk_data")
    with pytest.MonkeyPatch.context() as patch, reproduce._kernel() as kernel:
        patch.chdir(ROOT)
        patch.setenv("CLSL_DATA", str(root / "cache"))
        patch.setenv("CLSL_RECORDS", "")
        cifar100(root / "cache", patch)
        data.load("cifar100", "train")
        for name, (notebook, *options) in NOTEBOOK.items():
            patch.setenv("CLSL_RUNS", str(root / "runs" / name))
            patch.setenv("CLSL_FIGURES", str(root / "figures" / name))
            if name != "cifar100":
                MAKERS[name](root / name)
            given = ["dataset", name if name == "cifar100" else f"{name}:{root / name}", *SHORT, *options]
            given = [word for word in given if word != "-p"]
            (planned,) = profiles.planned("smoke", [notebook], list(zip(given[::2], given[1::2])))
            reproduce._papermill(planned, "smoke", kernel)
            tables[name] = pd.read_csv(figures.folder("smoke") / "results.csv")
    return tables


@pytest.mark.parametrize("name", NOTEBOOK)
def test_each_layout_ends_in_the_table_through_its_notebook(name, reproduced):
    table = reproduced[name]
    assert table["dataset"].str.startswith(name).all() and table["top1"].between(0, 100).all() and len(table) >= 4
    assert (table["epochs"] == 1).all()


def test_a_notebook_whose_information_is_lacking_is_one_line(tmp_path):
    metadata(tmp_path / "birds")
    given = [("dataset", f"metadata:{tmp_path / 'birds'}"), ("train_size", "null"), ("test_size", "null"), ("batch_size", "8")]
    for notebook, message in (("03", "levels asks for classes that are nouns of WordNet"), ("04", "ks asks for attributes")):
        with pytest.raises(ValueError, match=f"^{message}.*, and metadata:.*/birds has none"):
            reproduce.reproduce("smoke", [notebook], given)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "figures").exists()
