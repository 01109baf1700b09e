"""The checks of the assignments: a right solution passes, each wrong one hears why not."""

import pytest
import torch

from clsl.lab import assignments
from clsl.lab.assignments import check

RIGHT = '''
import torch
import torch.nn.functional as F

def loss(u, v, z, temperature):
    p = F.normalize(torch.cat([u, v]), dim=1)
    z, n = z.repeat(2), 2 * len(z)
    sums = torch.zeros(int(z.max()) + 1, p.shape[1]).index_add(0, z, p)
    positives = z.bincount()[z] - 1
    pulled = ((p * sums[z]).sum(1) - (p * p).sum(1)) / positives
    logits = (p @ p.T / temperature).fill_diagonal_(-torch.inf)
    return (logits.logsumexp(1) - pulled / temperature).mean()
'''
WITH_MASK = '''
import torch
import torch.nn.functional as F

def loss(u, v, z, temperature):
    p, z = F.normalize(torch.cat([u, v]), dim=1), z.repeat(2)
    itself = torch.eye(len(p), dtype=torch.bool)
    positive = (z[:, None] == z) & ~itself
    log_softmax = (p @ p.T / temperature).masked_fill(itself, -1e9).log_softmax(dim=1)
    return -((log_softmax * positive).sum(1) / positive.sum(1)).mean()
'''


@pytest.fixture
def solution(tmp_path):
    def write(text):
        (tmp_path / "mine.py").write_text(text)
        return tmp_path / "mine.py"

    return write


def test_a_loss_without_its_mask_passes(solution):
    assert check(1, solution(RIGHT)).startswith("passed: right to four digits, and keeps 1.")


@pytest.mark.parametrize(
    "text, said",
    [
        (WITH_MASK, "right, but autograd keeps"),
        (RIGHT.replace(" - 1\n", "\n"), "the loss is"),
        (RIGHT.replace("u, v])", "u, v.detach()])"), "the loss is right and its gradient is not"),
        ("def f(", "does not run: SyntaxError"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("loss = 3", "the solution must define loss"),
        ("", "the solution must define loss"),
    ],
)
def test_a_wrong_loss_hears_why(solution, text, said):
    with pytest.raises(ValueError, match=said):
        check(1, solution(text))


@pytest.fixture
def measured(monkeypatch, noise):
    """Ten classes in 40 images; accuracies by clusters instead of trainings."""
    images = [noise]
    monkeypatch.setattr(assignments.experiment.Experiment, "images", lambda self, training: images[0])
    top1 = {"merged:steps=1": 50.0, "merged:steps=2": 30.0, "instances": 40.0}
    monkeypatch.setattr(assignments, "_top1", lambda method, spec, seed: top1["instances" if method == "simclr" else spec] + seed)
    return top1


def test_clusters_that_beat_simclr(solution, measured):
    assert check(2, solution("CLUSTERS = 'merged:steps=1'")) == "passed: 50.0 against 40.0, 51.0 against 41.0, 52.0 against 42.0"
    with pytest.raises(ValueError, match="merged:steps=2 beats SimCLR in 0 of 3 seeds"):
        check(2, solution("CLUSTERS = 'merged:steps=2'"))
    for spec in ("labels", "instances", "split:depth=1"):
        with pytest.raises(ValueError, match=f"{spec} gives every image's label away"):
            check(2, solution(f"CLUSTERS = '{spec}'"))
    with pytest.raises(ValueError, match="unknown"):
        check(2, solution("CLUSTERS = 'nonsense'"))


def test_breaking_a4(solution, measured):
    text = "BETTER, WORSE = 'merged:steps={}', 'merged:steps={}'"
    with pytest.raises(ValueError, match="A4 stands: 50.0 against 30.0"):
        check(3, solution(text.format(1, 2)))
    with pytest.raises(ValueError, match="by A4 merged:steps=2 .* need not be better"):
        check(3, solution(text.format(2, 1)))
    measured["merged:steps=2"] = 60.0
    assert check(3, solution(text.format(1, 2))).startswith("passed, and a finding: 50.0 against 60.0")


def test_there_are_three(tmp_path):
    with pytest.raises(ValueError, match="no assignment 4: choose from 1, 2, 3"):
        check(4, tmp_path / "mine.py")
    with pytest.raises(OSError, match="no file"):
        check(1, tmp_path / "mine.py")


def test_what_autograd_keeps_is_counted_once():
    x = torch.ones(10, requires_grad=True)
    assert assignments._kept(lambda u, v, z, t: (u * u).sum(), x, x, None) == 40
