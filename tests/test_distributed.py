"""Two processes on CPUs against one that has the whole batch."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch import nn

from clsl import ROOT, augment, device, losses, runs, train
from clsl.data import kept
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


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over all processes, each with as many images, on CPUs, for which torch has none."""

    def _check_input_dim(self, x):
        pass

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        rest, shape = [i for i in range(x.ndim) if i != 1], [-1 if i == 1 else 1 for i in range(x.ndim)]
        mean = device.total(x.mean(rest)) / device.world()
        centred = x - mean.view(shape)
        variance = device.total(centred.square().mean(rest)) / device.world()
        n = x.numel() // x.shape[1] * device.world()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


def synchronised(module):
    for part in module.modules() if device.world() > 1 else ():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.__class__ = SyncBatchNorm
    return module


def one_step_and_three_epochs(path, noise):
    """For each method the first step's loss and gradients, and the losses of a short training; written by the first process."""
    device.precision = lambda where: torch.float32  # bfloat16 would hide what differs
    device.synchronised = synchronised
    out = {}
    with device.together():
        for name, spec in METHODS:
            config = Pretraining(method=name, clusters=spec, epochs=3, batch_size=80 if name == "w_mse" else 32, queue_size=80)
            out[name] = first_step(config, noise)
            out[name]["losses"] = [row["loss"] for row in train.fit(config, noise, path.with_suffix(f".{name}"))[1]]
        if device.rank() == 0:
            torch.save(out, path)


def first_step(config, noise):
    told, k = train.tell(config, noise)
    method, optimizer = train.begin(config, k or (int(told.max()) + 1 if told.ndim == 1 else told.shape[1]), torch.device("cpu"))
    method.weigh(2, 3)  # where pseudo-labels have their full weight
    if k:
        told = train.cluster(config, method, optimizer, noise, k, 1)
    method.train()
    parallel = device.parallel(method)
    pixels, generator = device.Pixels(noise.images, torch.device("cpu")), torch.Generator().manual_seed(0)
    views, z = next(augment.batches(config, 0, pixels, told, noise, generator))
    loss = train.step(parallel, optimizer, views, z, config.lr)
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": device.total(loss).item() / device.world(), "gradients": gradients}


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
    assert device.gathered_with_gradient(x) is x and not device.gathered(x).requires_grad
    assert device.share(6) == slice(0, 6) and device.world() == 1 and device.rank() == 0
    with device.together():
        assert device.parallel(module := torch.nn.Linear(2, 2)) is module


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(device, "world", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 128 images cannot be shared equally by 3 processes"):
        device.share(128)


CONFIG = dict(train_size=256, test_size=100, epochs=8, batch_size=64)


def test_launched_and_killed_at_every_stage_is_never_killed(tmp_path, monkeypatch):
    """A process of the two, then what launched them: the same numbers in the end."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = Pretraining(**CONFIG)
    expected = runs.get(config, devices=2)
    assert expected.record["made_by"]["device"].startswith("2 × ")
    monkeypatch.setenv("CLSL_RUNS", str(tmp_path / "killed"))
    code = (
        "import torch; torch.cuda.device_count = lambda: 2\n"
        f"from clsl import runs; from clsl.train import Pretraining; runs.get(Pretraining(**{CONFIG}), devices=2)"
    )
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
        state = kept.load(path, torch.device("cpu"), dataclasses.asdict(Pretraining(**CONFIG)))
        return len(state["history"]) if state else 0
    return 0


def children(pid):
    return [child.pid for child in psutil.Process(pid).children()]


def test_what_goes_wrong_in_a_process_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RuntimeError, match="^torchrun failed: a batch of 33 images cannot be shared equally by 2 processes"):
        runs.get(Pretraining(train_size=64, test_size=20, epochs=1, batch_size=33), devices=2)


def test_the_loss_of_a_share_is_that_of_its_rows(monkeypatch):
    """Two shares' losses average to the whole's, without any process."""
    u, v = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    z = torch.arange(8) % 3
    whole = losses.info_nce(u, v, z, 0.2)
    monkeypatch.setattr(device, "gathered_with_gradient", lambda x: torch.nn.functional.normalize(v, dim=1))
    monkeypatch.setattr(device, "gathered", lambda x: z)
    halves = [losses.info_nce(u[i : i + 4], v[i : i + 4], z[i : i + 4], 0.2) for i in (0, 4)]
    assert sum(halves) / 2 == pytest.approx(whole.item())
