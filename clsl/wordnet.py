"""A class name or wnid → its synset in WordNet 3.0 → the synset's ancestor at a level of the hierarchy."""

import functools
import re
import warnings
from collections.abc import Sequence

import nltk
from nltk.corpus.reader.wordnet import Synset, WordNetCorpusReader


def synset(name: str) -> Synset:
    """The noun synset of an ImageNet wnid ("n01531178"), a synset's name ("goldfinch.n.02") or a noun ("goldfinch").

    A plain noun means its first, most frequent, sense; spaces and hyphens may stand for underscores. Wnids are
    WordNet 3.0 noun offsets. Raises ValueError where WordNet has no such noun.
    """
    corpus = _corpus()
    if re.fullmatch(r"n\d{8}", name):
        return _known(lambda: corpus.synset_from_pos_and_offset("n", int(name[1:])), name)
    if re.fullmatch(r".+\.n\.\d+", name):
        return _known(lambda: corpus.synset(name), name)
    for spelling in (name, name.replace(" ", "_"), name.replace("-", "_").replace(" ", "_")):
        if senses := corpus.synsets(spelling, pos="n"):
            return senses[0]
    raise _unknown(name)


def is_noun(word: str) -> bool:
    """Whether WordNet has it, in one word or several."""
    return bool(_senses(word))


def _senses(noun: str) -> list[Synset]:
    return _corpus().synsets(noun.replace("-", "_").replace(" ", "_"), pos="n")


def nearest(noun: str, synsets: Sequence[Synset]) -> Synset:
    """The sense of a noun whose path from the root goes along with that to one of some synsets the longest.

    The first sense of equals; the root, "entity", for what is no noun. So a tiger beside animals is no fierce person.
    """
    corpus = _corpus()
    senses = _senses(noun) or [corpus.synset("entity.n.01")]
    near = {above for s in synsets for above in _path(s)}
    return max(senses, key=lambda sense: sum(above in near for above in _path(sense)))


class Hierarchy:
    """The tree above some synsets, from the root of WordNet ("entity", level 0) down to the synsets themselves.

    WordNet is not a tree: a dog is a canine and also a domestic animal, a car is a wheeled vehicle and, by way of
    that, a container. Here each synset keeps one parent, the hypernym with the **longest** path to the root; ties go
    to the name that sorts first. The longest path is the most detailed reading, usually the taxonomic one: the dog
    stands beside the cat under carnivore, the car beside the ship under vehicle. One parent a synset makes a tree,
    so the clusters of level l + 1 always lie inside those of level l.
    """

    def __init__(self, synsets: Sequence[Synset]):
        if not synsets:
            raise ValueError("a hierarchy needs at least one synset")
        if any(s.pos() != "n" for s in synsets):
            raise ValueError(f"a hierarchy is made of nouns, got {next(s.name() for s in synsets if s.pos() != 'n')}")
        self.synsets = tuple(synsets)
        self.paths = tuple(_path(s) for s in synsets)

    @property
    def depth(self) -> int:
        """The deepest level, at which every synset stands for itself."""
        return max(len(path) for path in self.paths) - 1

    def at(self, level: int) -> list[Synset]:
        """The ancestor of each synset `level` steps below the root, or the synset itself where its path is shorter.

        Raises ValueError where the level is not between 0 and `depth`.
        """
        if not 0 <= level <= self.depth:
            raise ValueError(f"level {level} is out of range: this hierarchy has levels 0 to {self.depth}")
        return [path[min(level, len(path) - 1)] for path in self.paths]

    def levels(self) -> list[int]:
        """The levels that change anything: the first of each distinct clustering, from one cluster to all apart."""
        counts = [len(set(self.at(level))) for level in range(self.depth + 1)]
        return [level for level in range(len(counts)) if level == 0 or counts[level] > counts[level - 1]]

    def show(self, level: int | None = None) -> str:
        """The tree as indented text, down to a level; a chain of only children is written on one line."""
        level = self.depth if level is None else level
        self.at(level)  # refuses a level out of range
        return "\n".join(_branch([path[: level + 1] for path in self.paths], 0))


def attributes(synsets: Sequence[Synset]) -> dict[str, tuple[bool, ...]]:
    """What WordNet says of some synsets and not of others: name → has it, one a synset.

    Every hypernym, on every path to the root, and every part of a synset or of its hypernyms ("has a tail"). Of those that
    divide the synsets in the same two groups, an animal and an artifact for instance, only one is kept: the first
    hypernym by name, else the first part.
    """
    above = [{h for path in s.hypernym_paths() for h in path} for s in synsets]
    parts = [{part for h in up for part in h.part_meronyms()} for up in above]
    out, seen = {}, set()
    for prefix, each in (("", above), ("has ", parts)):
        for s in sorted(set().union(*each), key=lambda s: s.name()):
            has = tuple(s in mine for mine in each)
            division = frozenset((has, tuple(not value for value in has)))
            if len(set(has)) == 2 and division not in seen:
                seen.add(division)
                out[prefix + s.name().split(".")[0].replace("_", " ")] = has
    return out


def _branch(paths: list[tuple[Synset, ...]], indent: int) -> list[str]:
    """The lines of a subtree whose paths all begin with the same synset."""
    chain = [paths[0][0]]
    paths = [path[1:] for path in paths]
    while all(paths) and len({path[0] for path in paths}) == 1:
        chain.append(paths[0][0])
        paths = [path[1:] for path in paths]
    lines = ["    " * indent + " › ".join(s.name().split(".")[0] for s in chain)]
    for child in sorted({path[0] for path in paths if path}, key=lambda s: s.name()):
        lines += _branch([path for path in paths if path and path[0] == child], indent + 1)
    return lines


@functools.cache
def _path(s: Synset) -> tuple[Synset, ...]:
    """From the root down to the synset, through the parent with the longest path."""
    # NLTK gives the hypernyms in an order that changes with PYTHONHASHSEED, hence the sort by name.
    parents = sorted(s.hypernyms() + s.instance_hypernyms(), key=lambda parent: parent.name())
    above = max((_path(parent) for parent in parents), key=len, default=())
    return (*above, s)


class _English(WordNetCorpusReader):
    def map_wn(self, version: str = "wordnet") -> None:
        """Nothing: the map to other versions is for other languages, and would take seconds."""


@functools.cache
def _corpus() -> WordNetCorpusReader:
    root = _installed() or _fetched()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no multilingual functions; we need none
        return _English(root, None)


def _installed() -> nltk.data.PathPointer | None:
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):  # nltk.download leaves the archive
        try:
            return nltk.data.find(name)
        except LookupError:
            pass
    return None


def _fetched() -> nltk.data.PathPointer:
    from .data import downloads  # here: clsl.data reads class names with this file

    try:
        nltk.data.path.append(str(downloads.wordnet()))
    except OSError as error:
        if not nltk.download("wordnet", quiet=True):
            raise OSError(f"WordNet could not be fetched ({error}): go online once, or run nltk.download('wordnet')") from None
    return _installed()


def _known(look_up, name: str) -> Synset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if found := look_up():
                return found
    except Exception:  # NLTK raises whatever the byte at a wrong offset makes it raise
        pass
    raise _unknown(name)


def _unknown(name: str) -> ValueError:
    return ValueError(f"WordNet has no noun {name!r}: give a noun, a synset such as dog.n.01 or a wnid such as n02084071")
