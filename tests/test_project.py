import ast
import json
import re
import tomllib

import pandas as pd
import yaml
from packaging.requirements import Requirement

from clsl import ROOT, config
from clsl.lab import fingerprint, records, report

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def pinned() -> dict[str, set[str]]:
    versions = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ \n]+)", LOCK, flags=re.M):
        versions.setdefault(name, set()).add(version)
    return versions


def test_the_lock_has_every_dependency_with_versions_and_hashes():
    """pyproject.toml is the origin of the lock; docs/papers.md has the command that compiles it."""
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


def test_the_readme_shows_what_was_found():
    """What `./reproduce.sh cpu` prints of the committed claims; and is no longer than a page."""
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- finding -->")[1].split("<!-- end -->")[0]
    assert " ".join(shown.split()) == report.finding(pd.read_csv(ROOT / "figures" / "cpu" / "claims.csv"))
    assert len(readme.split()) <= 1000
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", readme):
        assert (ROOT / path).exists(), path


def test_the_committed_results_are_those_of_their_records():
    """Every record is whole and of the source that is here, and every row of results.csv has one, and its numbers."""
    results = pd.read_csv(ROOT / "figures" / "cpu" / "results.csv").set_index("config")
    paths = list((ROOT / "figures" / "cpu" / "records").glob("*.json"))
    for path in paths:
        chosen = config.from_fields(json.loads(path.read_text())["config"])
        assert fingerprint.name(chosen) == path.stem, "made by another source: ./reproduce.sh cpu trains it anew"
        record = records.read(path, chosen)
        if path.stem in results.index:  # else it is of a table beside it
            top1 = results.loc[[path.stem], "top1"]
            assert (top1 == float(f"{record['result']['top1']:.6g}")).all()
    assert len(paths) >= 46 and set(results.index) <= {path.stem for path in paths}


def test_ci_calls_the_test_command_of_the_readme():
    assert "./reproduce.sh test" in (ROOT / ".ci" / "run").read_text()
    assert "./reproduce.sh test" in (ROOT / "README.md").read_text()


FLOOR = "information wordnet clusters device augment encoders losses methods config train evaluate".split()


def imports() -> dict[str, set[str]]:
    """File → the files that it imports, anywhere in it, as paths without suffix below clsl/."""
    files = {path.relative_to(ROOT / "clsl").with_suffix("").as_posix(): path for path in (ROOT / "clsl").rglob("*.py")}
    out = {}
    for name, path in files.items():
        out[name] = set()
        for node in ast.walk(ast.parse(path.read_text().split("if TYPE_CHECKING:")[0] + "\npass")):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = "/".join(name.split("/")[:-1][: len(name.split("/")) - node.level])
                base = "/".join(part for part in (folder, (node.module or "").replace(".", "/")) if part)
                for target in (f"{base}/{alias.name}".lstrip("/") for alias in node.names):
                    candidates = (target, f"{target}/__init__", base, f"{base}/__init__")  # a file, a package, or a name in either
                    out[name] |= {next(each for each in candidates if each in files or each == "/__init__")} & set(files)
        out[name].discard("__init__")
    return out


def test_arrows_go_one_way():
    """No file imports itself by way of others; the method's floor does not know the lab."""
    graph = imports()
    assert graph["train"] >= {"augment", "clusters", "methods/__init__"} and graph["lab/runs"] >= {"train", "lab/records"}
    done = set()
    while rest := graph.keys() - done:
        free = {name for name in rest if graph[name] - {name} <= done}
        assert free, f"a circle among {sorted(rest)}"
        done |= free
    for name, imported in graph.items():
        if not name.startswith("lab/") and name not in ("__main__", "__init__"):
            assert not any(each.startswith("lab") for each in imported), name


def test_every_file_that_can_change_a_number_counts():
    """What the hash of a run's source covers, and all that these files import on the method's floor, but for dictionaries."""
    graph, covered = imports(), {*fingerprint._FLOOR, "methods/contrastive", "data/cifar"}
    reached, wanted = set(), ["train", "evaluate", "methods/contrastive"]
    while wanted:
        if (name := wanted.pop()) not in reached:
            reached.add(name)
            wanted += graph[name]
    others = {each for each in reached if each.startswith(("methods/", "data/"))}
    assert reached - others - {"config"} <= covered  # a configuration's values are in the name already


def test_the_house_is_small():
    def lines(*patterns):
        return sum(len(path.read_text().splitlines()) for pattern in patterns for path in (ROOT / "clsl").glob(pattern))

    for path in (ROOT / "clsl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path.name}: {node.name}"
    rooms = {  # lines of each, which may only shrink
        "the method": (2310, [*(f"{name}.py" for name in FLOOR), "methods/*.py"]),
        "data": (1388, ["data/*.py"]),
        "to play with": (341, ["lab/explore.py", "lab/assignments.py"]),
        "page and slides": (354, ["lab/site.py", "lab/slides.py"]),
        "one's own images": (839, ["lab/advise.py", "lab/candidates.py", "lab/estimates.py", "lab/use.py"]),
    }
    for room, (limit, patterns) in rooms.items():
        assert lines(*patterns) <= limit, room
    beside = sum(lines(*patterns) for room, (_, patterns) in list(rooms.items())[2:])
    assert lines("lab/*.py", "__main__.py") - beside <= 2484
