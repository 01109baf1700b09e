import json
import re
import subprocess
import tomllib

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement

from clsl import ROOT, provenance, report

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def pinned() -> dict[str, set[str]]:
    versions = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ \n]+)", LOCK, flags=re.M):
        versions.setdefault(name, set()).add(version)
    return versions


def test_the_lock_has_every_dependency_with_versions_and_hashes():
    """pyproject.toml is the origin of the lock; README.md has the command that compiles it."""
    versions = pinned()
    for text in [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["test"]]:
        requirement = Requirement(text)
        assert versions.get(requirement.name), f"{requirement.name} is not in requirements.lock"
        assert all(requirement.specifier.contains(version) for version in versions[requirement.name])
    entries = re.split(r"\n(?=[a-z0-9._-]+==)", LOCK.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK and "index-url" not in LOCK


def test_conda_gets_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["project"]["name"]
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.lock"]}
    python = next(text for text in environment["dependencies"] if text.startswith("python="))
    assert Requirement("python" + PROJECT["project"]["requires-python"]).specifier.contains(
        python.removeprefix("python=") + ".0"
    )


def test_the_readme_shows_the_committed_results():
    readme = (ROOT / "README.md").read_text()
    folder = ROOT / "figures" / "cpu"
    made_by = json.loads((folder / "provenance.json").read_text())
    assert report.provenance_line(made_by, pd.read_csv(folder / "results.csv")) in readme
    for line in report.verdict_lines(pd.read_csv(folder / "claims.csv")):
        assert line in readme


def test_the_committed_results_are_of_the_commit_they_name():
    """The README names it too; ./reproduce.sh cpu there makes the same numbers."""
    for made_by in json.loads((ROOT / "figures" / "cpu" / "provenance.json").read_text()).values():
        read = ["git", "-C", str(ROOT), "show"]

        def source(name):
            return subprocess.run([*read, f"{made_by['commit']}:clsl/{name}.py"], capture_output=True, text=True).stdout

        if not (then := source("provenance")):
            pytest.skip("this clone does not have that commit")
        names = re.search(r'"(information [a-z ]+)"', then)[1].split()  # SOURCES at that commit
        assert len(names) > 8 and provenance.digest(map(source, names)) == made_by["source"]


def test_ci_calls_the_test_command_of_the_readme():
    assert "./reproduce.sh test" in (ROOT / ".ci" / "run").read_text()
    assert "./reproduce.sh test" in (ROOT / "README.md").read_text()


def test_modules_import_only_from_those_above():
    order = [
        "information",
        "downloads",
        *provenance.SOURCES[1:],
        "plan",
        "provenance",
        "runs",
        "figures",
        "sheet",
        "claims",
        "report",
        "reproduce",
        "search",
        "__main__",
    ]
    assert sorted(order) == sorted(path.stem for path in (ROOT / "clsl").glob("*.py") if path.stem != "__init__")
    for i, name in enumerate(order):
        source = (ROOT / "clsl" / f"{name}.py").read_text().split("if TYPE_CHECKING:")[0]
        imported = re.findall(r"^from \.(\w+) import", source, flags=re.M)
        for line in re.findall(r"^from \. import (.+)$", source, flags=re.M):
            imported += line.split("  #")[0].split(", ")
        assert set(imported) - {"ROOT"} <= set(order[:i]), name
