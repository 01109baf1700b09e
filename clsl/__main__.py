"""python -m clsl reproduce [PROFILE] [NOTEBOOK …] [-p NAME VALUE] · data NAME · train CONFIG · search"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import yaml

from . import reproduce  # the rest where it is needed: torch takes seconds to import


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m clsl", description="The companion to the Cl-InfoNCE papers.")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("reproduce", help="run the notebooks at a profile")
    command.add_argument("profile", nargs="?", default="quick", help=", ".join(reproduce.profiles()))
    command.add_argument("notebooks", nargs="*", help="only those whose names begin so, for example 03")
    command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    command.add_argument("--dry-run", action="store_true", help="only say what would be trained")
    command.set_defaults(run=lambda a: reproduce.reproduce(a.profile, a.notebooks, dict(a.p), a.dry_run))

    command = commands.add_parser("data", help="fetch or look for a data set, say what is there, and draw a sheet of examples")
    command.add_argument("name", help="for example cifar10, or folder:/my/photographs")
    command.add_argument("--clusters", help="of the sheet, for example wordnet:level=4")
    command.add_argument("--image-size", type=int, help="of views to come, for which files are packed now: 224")
    command.set_defaults(run=lambda a: _describe(a.name, a.clusters, a.image_size))

    command = commands.add_parser("train", help="train and evaluate one configuration")
    command.add_argument("config", type=Path, help="a YAML or JSON file of the fields of train.Pretraining")
    command.set_defaults(run=lambda a: _train(a.config))

    command = commands.add_parser("search", help="choose each method's learning rate and temperature on held-out images")
    command.add_argument("methods", nargs="*", help="all if none is named")
    command.set_defaults(run=lambda a: _search(a.methods))

    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"clsl: {error}")
    except KeyboardInterrupt:
        sys.exit("clsl: interrupted; run the same command again to go on from here")


def _describe(name: str, spec: str | None, image_size: int | None) -> None:
    from . import sheet

    print(sheet.describe(name, spec, image_size))


def _train(path: Path) -> None:
    from . import distributed, runs
    from .train import Pretraining

    try:
        fields = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {str(error).splitlines()[0]}") from None
    names = [field.name for field in dataclasses.fields(Pretraining)]
    if not isinstance(fields, dict) or set(fields) - set(names):
        unknown = ", ".join(sorted(set(fields) - set(names))) if isinstance(fields, dict) else type(fields).__name__
        raise ValueError(f"{path} has unknown fields ({unknown}): choose from {', '.join(names)}")
    config = Pretraining(**fields)
    with distributed.together():
        if distributed.world() > 1:
            runs.train_here(config, lambda done: print(f"epoch {done}", flush=True))
        if distributed.rank() == 0:
            run = runs.get(config)
            print(json.dumps(run.result, indent=1))
            print(f"in {run.folder}")


def _search(names: list[str]) -> None:
    from . import search

    print(search.search(names).to_string(index=False))


if __name__ == "__main__":
    main()
