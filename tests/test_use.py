"""A trained encoder at work: loaded by name, features, neighbours, suspects, other programs. The weights are not trained."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import clsl
from clsl import ROOT, __main__, data, encoders, runs
from clsl.config import Pretraining
from clsl.data import kept
from clsl.lab import fingerprint, records, use


def keep(**changed) -> Path:
    """The folder of a run with the weights that a training begins with."""
    config = Pretraining(**{"epochs": 1, "batch_size": 32, "lr": 0.1, "temperature": 0.1} | changed)
    folder = runs.folder() / fingerprint.name(config)
    folder.mkdir(parents=True)
    torch.manual_seed(config.seed)
    kept.save_weights(folder / "encoder.safetensors", encoders.build(config.encoder, config.image_size).state_dict())
    records.write(folder / "record.json", config, {"top1": 0.0}, [], torch.zeros(4, dtype=torch.int64))
    return folder


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    """A folder of 24 pictures in four colours, which the column `colour` tells; one is told wrongly, one not at all.

    What their names hold would be a formula, and a wrong one, in the title of a figure.
    """
    monkeypatch.setenv("CLSL_DATA", str(tmp_path / "cache"))
    root, random = tmp_path / "my photographs", np.random.default_rng(0)
    root.mkdir()
    rows = ["file_name,label,colour"]
    for i in range(24):
        pixels = random.integers(0, 60, (40, 50, 3)) + np.array([(190, 0, 0), (0, 190, 0), (0, 0, 190), (190, 190, 190)][i % 4])
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i:02}$_$.png")
        colour = {0: "green", 1: ""}.get(i, ("red", "green", "blue", "white")[i % 4])
        rows.append(f"{i:02}$_$.png,{'ab'[i % 2]},{colour}")
    (root / "metadata.csv").write_text("\n".join(rows))
    return f"folder:{root}"


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["clsl", *map(str, arguments)])
    __main__.main()


def test_an_encoder_in_one_line(noise):
    folder = keep()
    encoder = clsl.load(folder.name)
    assert not encoder.training and encoder.side == 32 and fingerprint.name(encoder.config) == folder.name
    weights = kept.load_weights(folder / "encoder.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in encoder.encoder.state_dict().items())
    for same in (folder.name[:-3], folder, str(folder)):
        assert torch.equal(clsl.load(same).embed(noise), encoder.embed(noise))


def test_a_committed_encoder(monkeypatch, tmp_path, noise):
    """Its weights are in bfloat16, its record lies elsewhere, and the run is not there."""
    folder = keep()
    expected = clsl.load(folder.name).embed(noise)
    (tmp_path / "cpu" / "records").mkdir(parents=True)
    runs.keep_encoder(folder / "encoder.safetensors", tmp_path / "cpu" / "encoders" / f"{folder.name}.safetensors")
    (folder / "record.json").rename(tmp_path / "cpu" / "records" / f"{folder.name}.json")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="^no encoder 'simclr', and no run's folder: choose from none yet"):
        clsl.load("simclr")
    monkeypatch.setenv("CLSL_RECORDS", str(tmp_path / "cpu" / "records"))
    found = clsl.load("simclr").embed(noise)
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))
    assert {value.dtype for value in clsl.load("simclr").encoder.parameters()} == {torch.float32}


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, capsys):
    first, second = keep(), keep(seed=1)
    for name in ("simclr", ""):
        with pytest.raises(ValueError, match=f"^'{name}' begins the names of 2 encoders: choose from simclr-.*, simclr-"):
            clsl.load(name)
    for name in ("moco", tmp_path, first / "nothing"):
        with pytest.raises(ValueError, match="^no encoder '.*', and no run's folder: choose from simclr-"):
            clsl.load(name)
    assert not capsys.readouterr().err
    told = json.loads((second / "record.json").read_text())
    (second / "record.json").write_text(json.dumps(told | {"result": {"top1": 99.0}}))
    with pytest.raises(kept.Damaged, match="record.json is damaged"):
        clsl.load(second)
    told["made_by"]["source"] = "0" * 12
    (second / "record.json").write_text(json.dumps(told))
    assert clsl.load(second) and "is of another version of the code" in capsys.readouterr().err
    (second / "encoder.safetensors").write_bytes(b"\0" * 99)
    with pytest.raises(kept.Damaged, match="encoder.safetensors are damaged"):
        clsl.load(second)
    (second / "record.json").write_text("[]")
    with pytest.raises(kept.Damaged, match="record.json cannot be read"):
        clsl.load(second)


def test_the_moments_are_those_of_the_data(cifar10):
    assert use.MOMENTS["cifar10"] == (cifar10.mean, cifar10.std)
    cifar100 = data.load("cifar100", "test", size=1)
    assert use.MOMENTS["cifar100"] == (cifar100.mean, cifar100.std)


def test_features_are_those_of_the_evaluation(noise, tmp_path):
    """Whatever images come as; their own moments do not count, those of the training do."""
    encoder = clsl.load(keep())
    mean, std = use.MOMENTS["cifar10"]
    training = data.Images(noise.images, noise.labels, noise.class_names, mean, std)
    expected = encoders.features(encoder.encoder, training)
    assert torch.equal(encoder.embed(noise), expected) and torch.equal(encoder.embed(noise.images), expected)
    with torch.no_grad():
        assert torch.allclose(encoder(torch.from_numpy(noise.images)), expected, atol=0.02 * float(expected.abs().max()))
    Image.fromarray(noise.images[0]).save(tmp_path / "0.png")
    several = encoder.embed([tmp_path / "0.png", Image.fromarray(noise.images[0]), noise.images[0], noise.images[1]])
    assert torch.allclose(several, expected[[0, 0, 0, 1]], atol=0.02 * float(expected.abs().max()))
    assert encoder.embed(np.zeros((2, 50, 70, 3), np.uint8)).shape == (2, encoder.encoder.dim)


def test_images_that_are_not_square_lose_their_ends():
    """As the evaluation crops them: what is left and right of the central square does not count, in it all does."""
    encoder = clsl.load(keep())
    wide = np.random.default_rng(0).integers(0, 256, (3, 32, 96, 3), np.uint8)
    wide[1] = wide[0]
    wide[1, :, :20] = 0
    wide[2, :, :20] = wide[0, :, :20]
    a, b, c = encoder.embed(wide)
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "there are no images to embed"),
        (np.zeros((2, 32, 32, 3)), r"an image must be uint8 \[H, W, 3\], PIL's or a file, got ndarray \(32, 32, 3\)"),
        (np.zeros((32, 32, 3), np.uint8), r"an image must be uint8 \[H, W, 3\], .* got ndarray \(32, 3\)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "an image must be uint8"),
        (["nothing.jpg"], "nothing.jpg cannot be read: .*No such file"),
    ],
)
def test_what_is_no_image(images, message):
    with pytest.raises(ValueError, match=message):
        clsl.load(keep()).embed(images)


def test_neighbours_are_the_nearest_in_cosine():
    features = torch.tensor([[1.0, 0.0], [5.0, 0.5], [0.0, 3.0], [-1.0, 0.0]])
    assert use.neighbours(features, features[[0, 2]], 2).tolist() == [[0, 1], [2, 1]]
    assert use.neighbours(features.numpy(), features[:1], 9).tolist() == [[0, 1, 2, 3]]


def mixture(n, k, dim, seed=0):
    """Features float32 [n, dim] around k centres, their clusters with a tenth of the ids changed at random, and which were."""
    random = np.random.default_rng(seed)
    z = random.integers(0, k, n)
    features = random.normal(size=(k, dim))[z] + random.normal(size=(n, dim))
    wrong = random.random(n) < 0.1
    told = np.where(wrong, (z + random.integers(1, k, n)) % k, z)
    return features.astype(np.float32), z, told, wrong


@pytest.mark.parametrize("n, k, dim", [(2000, 5, 16), (1000, 20, 32), (400, 2, 64)])
def test_wrong_tags_come_first(n, k, dim):
    features, z, told, wrong = mixture(n, k, dim)
    table = use.suspects(features, told)
    assert sorted(table["image"]) == list(range(n)) and table["score"].is_monotonic_decreasing and (table["score"] >= 0).all()
    assert (table["cluster"] == told[table["image"]]).all()
    first = table.head(n // 10)
    assert wrong[first["image"]].mean() >= 0.6
    assert (first["likelier"] == z[first["image"]])[wrong[first["image"]]].mean() >= 0.8
    of_nothing = use.suspects(np.random.default_rng(1).normal(size=(n, dim)), told)
    assert wrong[of_nothing["image"][: n // 10]].mean() < 0.3


def test_an_image_is_no_witness_for_itself():
    """It does not count for the mean of its own cluster: against the formula, with the other images of its cluster."""
    x, z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    log_p = use._log_probabilities(x, z)
    others, n = torch.arange(40) != 7, torch.tensor([20.0, 20.0])
    means = torch.stack([x[others & (z == k)].mean(0) for k in (0, 1)])
    whole = torch.stack([x[z == k].mean(0) for k in (0, 1)])
    covariance = (x - whole[z]).T @ (x - whole[z]) / 40
    covariance += covariance.diagonal().mean() * torch.eye(3)
    far = torch.stack([(x[7] - mean) @ covariance.inverse() @ (x[7] - mean) for mean in means])
    assert torch.allclose(log_p[7], ((n / 40).log() - far / 2).log_softmax(0), atol=1e-4)


def test_a_sheet_shows_the_nearest_but_not_the_image_itself(photographs, monkeypatch):
    """Each row begins with the file asked for; the images after it are those of `neighbours`, of other files."""
    encoder, images, shown = clsl.load(keep()), data.load(photographs, "train", image_size=32), []
    monkeypatch.setattr(use.figures, "sheet", lambda images, *rest, columns: shown.append((images.images, *rest, columns)))
    features, file = encoder.embed(images), images.files[3]
    use.neighbour_sheet(encoder, images, features, [file, Path(file).parent / "." / Path(file).name], k=4)
    pixels, z, titles, columns = shown[0]
    assert z.tolist() == [0] * 5 + [1] * 5 and columns == 5 and titles == [Path(file).name.replace("$", r"\$")] * 2
    nearest = [i for i in use.neighbours(features, features[3:4], 5)[0].tolist() if i != 3][:4]
    assert np.array_equal(pixels[:5], images.images[[3, *nearest]]) and np.array_equal(pixels[:5], pixels[5:])


def test_gaps_and_images_alone_are_no_suspects():
    features, _, told, _ = mixture(100, 3, 8)
    told[:5], told[5] = -1, 77
    assert sorted(use.suspects(features, torch.from_numpy(told) * 10)["image"]) == list(range(6, 100))
    for z in (np.arange(100), np.zeros(100, int), np.full(100, -1)):
        with pytest.raises(ValueError, match="suspects needs two clusters of at least two images, got [01]"):
            use.suspects(features, z)
    for bad in (features[:50], features * np.nan, features[:, 0]):
        with pytest.raises(ValueError, match="suspects needs finite features"):
            use.suspects(bad, told)


def test_a_folder_on_the_command_line(photographs, monkeypatch, tmp_path, capsys):
    """An encoder that was trained on other images: features in order, neighbours drawn, and the wrong word found."""
    name, root, out = keep().name, photographs.partition(":")[2], tmp_path / "mine.npy"
    near = [f"{root}/{i:02}$_$.png" for i in range(2)]
    run(monkeypatch, "embed", photographs, "--encoder", name[:8], "--out", out, "--neighbours", *near, "--suspects", "colour")
    written = [tmp_path / f"mine{suffix}" for suffix in (".npy", ".names.csv", ".neighbours.png", ".suspects.csv")]
    assert capsys.readouterr().out == f"in {', '.join(map(str, written))}\n"
    assert sorted(tmp_path.glob("*mine*")) == sorted(written)
    names, features = pd.read_csv(written[1])["file_name"], np.load(out)
    for part, n in (("train", 19), ("test", 5)):  # all are embedded
        images = data.load(photographs, part, image_size=32)
        assert len(images) == n and set(images.files) < set(names) and len(names) == 24
        assert np.array_equal(features[[names.tolist().index(file) for file in images.files]], clsl.load(name).embed(images).numpy())
    assert Image.open(written[2]).size[0] > 500
    table = pd.read_csv(written[3])
    assert list(table) == ["file_name", "cluster", "likelier", "score"]
    assert set(table["cluster"]) == {"red", "green", "blue", "white"}
    listed = [name for name in names if "/01" not in name]  # of which nothing is told
    assert sorted(table["file_name"]) == sorted(listed)
    assert tuple(table.loc[0, ["file_name", "cluster", "likelier"]]) == (f"{root}/00$_$.png", "green", "red")


def test_a_folder_without_labels_is_embedded(photographs, monkeypatch, tmp_path, capsys):
    """And what cannot be read is said."""
    root = Path(photographs.partition(":")[2])
    (root / "metadata.csv").write_text((root / "metadata.csv").read_text().replace(",label,", ",shop,"))
    (root / "03$_$.png").write_bytes(b"")
    given = ["embed", photographs, "--encoder", keep().name[:8], "--out", tmp_path / "mine.npy", "--suspects"]
    run(monkeypatch, *given, "colour")
    assert len(np.load(tmp_path / "mine.npy")) == 23 and "left out: " in (said := capsys.readouterr().err) and "an empty file" in said
    with pytest.raises(SystemExit, match="no column 'Colour': the table has file_name, .*colour"):
        run(monkeypatch, *given, "Colour")


def test_an_encoder_of_ones_own_images(photographs):
    """Its moments are those of the images; its size is that of packed files."""
    encoder, images = clsl.load(keep(dataset=photographs)), data.load(photographs, "train")
    assert encoder.side == 64 and torch.allclose(encoder.mean, torch.tensor(images.mean))
    assert torch.equal(encoder.embed(images), encoders.features(encoder.encoder, images))
    assert torch.allclose(encoder.embed(images.files), encoder.embed(images), atol=1e-5)
    sixteen = Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64))  # which are not to be clipped at 255
    sixteen.save(Path(images.files[0]))
    for image in (sixteen, images.files[0], Path(images.files[0])):
        assert torch.allclose(encoder.embed(image), encoder.embed([sixteen]), atol=1e-5) and len(encoder.embed(image)) == 1


def test_clusters_that_are_no_column_have_names_too(photographs, noise, monkeypatch):
    z, names = use.sheet.named(photographs, data.load(photographs, "test"), "labels")
    assert names == ["a", "b"][: len(z.unique())]
    assert use.sheet.named("cifar10", noise, "labels")[1] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["embed", "cifar10", "--encoder", "moco"], "no encoder 'moco'"),
        (["embed", "cifar11", "--encoder", "simclr"], "unknown data set 'cifar11'"),
        (["embed", "cifar10", "--encoder", "simclr", "--out", "features.csv"], "features.csv must be FILE.npy or FILE.parquet"),
        (["embed", "cifar10", "--encoder", "simclr", "--out", "nowhere/features.npy"], "in a folder that is there"),
        (["embed", "cifar10", "--encoder", "simclr", "--neighbours", "nothing.jpg"], "nothing.jpg cannot be read"),
        (["embed", "cifar10", "--encoder", "simclr", "--suspects", "colour"], "unknown clusters 'colour'"),
        (["embed", "cifar10", "--encoder", "simclr", "--suspects", "kmeans:k=3"], "kmeans:k=3 has no clusters yet"),
        (["export", "simclr"], "nothing to write: say --onnx FILE, --state-dict FILE or both"),
        (["export", "simclr", "--state-dict", "features.pt"], "torchvision has no tiny, only resnet18 and resnet50"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, monkeypatch, tmp_path):
    """And nothing is written."""
    keep()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as said:
        run(monkeypatch, *arguments)
    assert str(said.value).startswith("clsl: ") and message in str(said.value) and "\n" not in str(said.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_where_pandas_can(monkeypatch, tmp_path, noise):
    keep()
    monkeypatch.setattr(use.data, "load", lambda *_, **options: noise)
    if importlib.util.find_spec("pyarrow"):
        table = pd.read_parquet(use.embed("cifar10", "simclr", "test", tmp_path / "f.parquet")[0])
        assert len(table) == 96 and table["file_name"][1] == "cifar10/test/1" and "feature_383" in table
    else:
        with pytest.raises(ValueError, match="f.parquet needs pyarrow: pip install pyarrow, or write .*f.npy"):
            use.embed("cifar10", "simclr", "test", tmp_path / "f.parquet")


@pytest.mark.parametrize("image_size", [None, 96])
def test_a_resnet_loads_into_torchvision(image_size, tmp_path):
    from torchvision import models

    encoder = clsl.load(keep(encoder="resnet18", image_size=image_size))
    model = models.resnet18()
    model.fc = torch.nn.Identity()
    if image_size is None:
        model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    model.load_state_dict(torch.load(use.state_dict(encoder, tmp_path / "resnet18.pt"), weights_only=True))
    x = torch.randn(2, 3, encoder.side, encoder.side)
    with torch.no_grad():
        assert torch.allclose(model.eval()(x), encoder.encoder(x), atol=1e-5)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["resnet18.pt"]


def test_onnx_agrees_with_torch(monkeypatch, tmp_path):
    encoder, missing = clsl.load(keep()), not all(map(importlib.util.find_spec, ("onnx", "onnxscript")))
    if missing:
        with pytest.raises(ValueError, match=r"pip install -e .\[export\]"):
            use.onnx(encoder, tmp_path / "encoder.onnx")
        assert not list(tmp_path.glob("*.onnx"))
        return
    apart = use.onnx(encoder, tmp_path / "encoder.onnx")
    assert list(tmp_path.glob("*.onnx*")) == [tmp_path / "encoder.onnx"] and (apart is None or apart <= 1e-4)


def test_importing_clsl_stays_cheap():
    code = "import sys, clsl; assert clsl.load; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False False\n"
