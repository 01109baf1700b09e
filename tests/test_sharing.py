"""What shares the companion: an image, a container, Binder, and an install that fits a laptop."""

import json
import os
import re
import stat
import subprocess
import tomllib

from packaging.specifiers import SpecifierSet

from clsl import ROOT

PYTHON = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
INSTALL = "./reproduce.sh install"


def steps(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, rest of the line) of a Dockerfile without comments and continued lines."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(re.fullmatch(r"([A-Z]+)\s+(.+)", line).groups()) for line in lines]


def test_the_image_installs_and_starts_what_there_is():
    told = steps((ROOT / "Dockerfile").read_text())
    known = dict(told)
    assert told[0][0] == "FROM" and known["USER"] != "root" and ("COPY", f"--chown={known['USER']} . .") in told
    assert known["FROM"].partition(":")[2].removesuffix("-slim") in PYTHON
    assert ("RUN", INSTALL) in told
    entry, arguments = json.loads(known["ENTRYPOINT"]), json.loads(known["CMD"])
    assert os.access(ROOT / entry[0], os.X_OK) and arguments[0] == "lab" and "--ip=0.0.0.0" in arguments
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "runs"} <= set(ignored) and not {"clsl", "notebooks", "requirements.lock", "figures"} & set(ignored)


def test_the_dev_container_installs():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == INSTALL
    assert container["image"].rpartition(":")[2] in PYTHON


def test_binder_gets_the_lock():
    binder = ROOT / "binder"
    assert (binder / "requirements.txt").resolve() == ROOT / "requirements.lock"
    assert (binder / "runtime.txt").read_text().strip().removeprefix("python-") in PYTHON
    assert (binder / "postBuild").stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", binder / "postBuild"], check=True)


def test_without_a_card_everything_but_torch_comes_from_the_lock(tmp_path):
    """The filter in reproduce.sh leaves no CUDA in the list, drops no other package, and keeps every hash."""
    program = re.search(r"awk '(.*cuda.*)' requirements.lock", (ROOT / "reproduce.sh").read_text()).group(1)
    rest = subprocess.run(["awk", program, ROOT / "requirements.lock"], capture_output=True, text=True, check=True).stdout

    def names(text):
        return set(re.findall(r"^([a-z0-9._-]+)==", text, flags=re.M))

    gone = names((ROOT / "requirements.lock").read_text()) - names(rest)
    assert {"torch", "torchvision", "triton"} <= gone and all(re.match(r"nvidia|cuda|torch|triton", name) for name in gone)
    entries = re.split(r"\n(?=[a-z0-9._-]+==)", rest.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
