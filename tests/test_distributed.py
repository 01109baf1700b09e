"""Two processes on CPUs against one that has the whole batch."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from clsl import ROOT, clusters, distributed, encoders, losses, methods, runs, train
from clsl.pixels import Pixels
from clsl.train import Pretraining

METHODS = [
    ("simclr", None),
    ("cl_infonce", "labels"),
    ("cross_entropy", "labels"),
    ("cmc", "attributes:k=4"),
    ("moco", None),
    ("pcl", "kmeans:k=6"),
    ("dual_head", "kmeans:k=6"),
    ("byol", None),
    ("w_mse", None),
    ("barlow_twins", None),
    ("simclr+progressive", "kmeans:k=6"),
]


def one_step_and_three_epochs(path, noise):
    """For each method the first step's loss and gradients, and the losses of a short training; written by the first process."""
    train.precision = encoders.precision = lambda where: torch.float32  # bfloat16 would hide what differs
    out = {}
    with distributed.together():
        for name, spec in METHODS:
            config = Pretraining(method=name, clusters=spec, epochs=3, batch_size=80 if name == "w_mse" else 32, queue_size=80)
            make = clusters.vectors if methods.METHODS[name].attributes else clusters.make
            z = make(config.clusters, noise, 0)
            out[name] = first_step(config, noise, z)
            out[name]["losses"] = [row["loss"] for row in train.fit(config, noise, z, path.with_suffix(f".{name}"))[1]]
        if distributed.rank() == 0:
            torch.save(out, path)


def first_step(config, noise, z):
    method, optimizer = train._initial(config, train._size(z), torch.device("cpu"))
    if isinstance(z, clusters.KMeans):
        z, _ = train._grouped(config, method, optimizer, noise, z, 1)
    method.begin(2, 3)  # where pseudo-labels have their full weight
    method.train()
    parallel = distributed.parallel(method)
    pixels, generator = Pixels(noise, torch.device("cpu")), torch.Generator().manual_seed(0)
    views, ids = next(train.batches(config, pixels, z, noise, generator))
    loss = train.step(parallel, optimizer, views, ids)
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": distributed.total(loss).item() / distributed.world(), "gradients": gradients}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process found, and what two found together."""
    folder = tmp_path_factory.mktemp("both")
    code = (
        "import sys; sys.path.insert(0, 'tests'); import conftest, test_distributed as t; from pathlib import Path\n"
        f"t.one_step_and_three_epochs(Path('{folder}') / sys.argv[1], conftest.make_noise())"
    )
    (folder / "script.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for start, name in (([], "one"), (torchrun, "two")):
        command = [sys.executable, *start, str(folder / "script.py"), name]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / name) for name in ("one", "two")]


@pytest.mark.parametrize("method", [name for name, _ in METHODS])
def test_two_processes_are_one(both, method):
    one, two = (found[method] for found in both)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert one["gradients"].keys() == two["gradients"].keys()
    rounding = 1e-4 if method == "w_mse" else 1e-5  # whitening blows it up
    nothing = 1e-7 * max(gradient.norm() for gradient in one["gradients"].values())  # of what the loss does not depend on
    for name, gradient in one["gradients"].items():
        assert (two["gradients"][name] - gradient).norm() <= rounding * gradient.norm() + nothing, name
    # Where k-means clusters anew, an image between two clusters may fall to the other side by a rounding.
    anew = ("pcl", "dual_head", "simclr+progressive")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-2 if method in anew else 1e-3)


def test_alone_nothing_is_gathered():
    x = torch.randn(4, 3, requires_grad=True)
    assert distributed.gathered_with_gradient(x) is x and not distributed.gathered(x).requires_grad
    assert distributed.share(6) == slice(0, 6) and distributed.world() == 1 and distributed.rank() == 0
    with distributed.together():
        assert distributed.parallel(module := torch.nn.Linear(2, 2)) is module


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 128 images cannot be shared equally by 3 processes"):
        distributed.share(128)


CONFIG = dict(train_size=256, test_size=100, epochs=8, batch_size=64)


def test_launched_and_killed_at_every_stage_is_never_killed(tmp_path, monkeypatch):
    """A process of the two, then what launched them: the same numbers in the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = Pretraining(**CONFIG)
    expected = runs.get(config, devices=2)
    assert expected.result["provenance"]["device"].startswith("2 × ")
    monkeypatch.setenv("CLSL_RUNS", str(tmp_path / "killed"))
    code = f"from clsl import runs; from clsl.train import Pretraining; runs.get(Pretraining(**{CONFIG}), devices=2)"
    for done, victim in ((1, "process"), (3, "launcher")):
        launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
        while launcher.poll() is None and epochs_done(tmp_path / "killed") < done:
            time.sleep(0.02)
        torchrun = children(launcher.pid)[0]
        os.kill(children(torchrun)[-1] if victim == "process" else launcher.pid, signal.SIGKILL)
        assert launcher.wait(timeout=60) != 0
    again = runs.get(config, devices=2)  # waits for what the launcher left running, or goes on from its last epoch
    assert again.history["loss"].tolist() == expected.history["loss"].tolist() and len(again.history) == 8
    assert again.result["top1"] == expected.result["top1"]


def epochs_done(folder):
    for path in folder.glob("*/checkpoint.pt"):
        return len(torch.load(path, weights_only=True)["history"])
    return 0


def children(pid):
    return [child.pid for child in psutil.Process(pid).children()]


def test_what_goes_wrong_in_a_process_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(RuntimeError, match="^torchrun failed: a batch of 33 images cannot be shared equally by 2 processes"):
        runs.get(Pretraining(train_size=64, test_size=20, epochs=1, batch_size=33), devices=2)


def test_the_loss_of_a_share_is_that_of_its_rows(monkeypatch):
    """Two shares' losses average to the whole's, without any process."""
    u, v = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    z = torch.arange(8) % 3
    whole = losses.info_nce(u, v, z, 0.2)
    monkeypatch.setattr(distributed, "gathered_with_gradient", lambda x: torch.nn.functional.normalize(v, dim=1))
    monkeypatch.setattr(distributed, "gathered", lambda x: z)
    halves = [losses.info_nce(u[i : i + 4], v[i : i + 4], z[i : i + 4], 0.2) for i in (0, 4)]
    assert sum(halves) / 2 == pytest.approx(whole.item())
