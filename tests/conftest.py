"""Runs and figures of the tests go to temporary folders; images and WordNet come from the usual cache."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # here and in what tests start: threads of two processes would wait for one another

import numpy as np
import pytest
import torch
from hypothesis import settings

from clsl import data, runs, train


settings.register_profile("default", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("CLSL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CLSL_RECORDS", "")  # none of those committed
    monkeypatch.setenv("CLSL_FIGURES", str(tmp_path / "figures"))
    monkeypatch.delenv("CLSL_PROGRESS", raising=False)


@pytest.fixture(scope="session")
def cifar10() -> data.Images:
    return data.load("cifar10", "train", size=512)


def make_noise() -> data.Images:
    """96 images of noise in four classes with five attributes, for what needs no real ones."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    labels = torch.from_numpy(generator.integers(0, 4, 96))
    attributes = torch.from_numpy(generator.random((96, 5)) < 0.4)
    return data.Images(pixels, labels, tuple("abcd"), mean=(0.5,) * 3, std=(0.25,) * 3, attributes=attributes)


@pytest.fixture
def noise() -> data.Images:
    return make_noise()


@pytest.fixture
def on_noise(monkeypatch, noise):
    """`runs` trains and tests on noise."""
    monkeypatch.setattr(runs, "_images", lambda name, split, size, image_size: noise)


def count_trainings(monkeypatch) -> list:
    """The configurations trained from now on."""
    trained, fit = [], train.fit
    monkeypatch.setattr(train, "fit", lambda config, *rest: trained.append(config) or fit(config, *rest))
    return trained


def pytest_addoption(parser):
    parser.addoption("--browser", action="store_true", help="also the tests in a browser, which take minutes")


def pytest_ignore_collect(collection_path, config):
    if collection_path.name == "browser" and not config.getoption("--browser"):
        return True
