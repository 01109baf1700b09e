"""python -m clsl reproduce [PROFILE] [NOTEBOOK …] [-p NAME VALUE] · data NAME · train CONFIG · search · advise FOLDER
· embed FOLDER · export ENCODER · check N FILE · site [PROFILE] · slides [PROFILE]"""

import argparse
import json
import signal
import sys
from pathlib import Path

from . import printable


def main() -> None:
    arguments = _parser().parse_args()
    for kind in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(kind) == signal.SIG_DFL:  # nohup has another
            signal.signal(kind, signal.default_int_handler)  # leave as if interrupted: what is temporary is cleared away
    try:
        arguments.run(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"clsl: {printable(str(error).replace(chr(10), ' '))}")
    except KeyboardInterrupt:
        sys.exit("clsl: interrupted; nothing is lost: run the same command again to go on from here")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clsl", description="The companion to the Cl-InfoNCE papers.")
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("reproduce", help="run the notebooks at a profile")
    command.add_argument("profile", nargs="?", default="quick", help="smoke, quick, cpu, gpu, paper")
    command.add_argument("notebooks", nargs="*", help="only those whose names begin so, for example 03")
    command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    command.add_argument("--dry-run", action="store_true", help="only say what would be trained")
    command.add_argument("--fresh", action="store_true", help="train everything anew, whatever was trained or committed before")
    command.add_argument("--check", type=int, metavar="N", help="train N committed records, drawn at random, anew, and compare")
    command.set_defaults(run=_reproduce)

    command = commands.add_parser("data", help="fetch or look for a data set, say what is there, and draw a sheet of examples")
    command.add_argument("name", help="for example cifar10, or folder:/my/photographs")
    command.add_argument("--clusters", help="of the sheet, for example wordnet:level=4")
    command.add_argument("--image-size", type=int, help="of views to come, for which files are packed now: 224")
    command.set_defaults(run=_data)

    command = commands.add_parser("train", help="train and evaluate one configuration")
    command.add_argument("config", type=Path, help="a YAML or JSON file of fields of config.Pretraining: docs/example.yml")
    command.set_defaults(run=_train)

    command = commands.add_parser("search", help="choose each method's learning rate and temperature on held-out images")
    command.add_argument("methods", nargs="*", help="all if none is named")
    command.set_defaults(run=_search)

    _add_uses(commands)
    command = commands.add_parser("check", help="check the solution of an assignment of docs/teaching.md")
    command.add_argument("number", type=int, help="1, 2 or 3")
    command.add_argument("solution", type=Path, help="a Python file")
    command.set_defaults(run=_check)

    for name, words in (("site", "write the page to read, and the notebooks as pages"), ("slides", "make slides of the notebooks")):
        command = commands.add_parser(name, help=f"{words}, from what a profile found")
        command.add_argument("profile", nargs="?", default="cpu", help="smoke, quick, cpu, gpu, paper")
        command.set_defaults(run=_pages, kind=name)
    return parser


def _add_uses(commands) -> None:
    """For one's own images: advice before a training, and what is done with an encoder after it."""
    command = commands.add_parser("advise", help="say which clusters of your images are worth training with, from few labels")
    command.add_argument("dataset", help="for example folder:/my/photographs")
    command.add_argument("--labels", metavar="COLUMN", help="what the network is for, if not the label: a column, or FILE.csv; gaps are unknown")
    command.add_argument("--labelled", type=int, metavar="N", help="use only N labels, or write labels.csv, N images to fill in")
    command.add_argument("--train", type=float, metavar="MINUTES", help="train the advised clusters and SimCLR, to see")
    command.set_defaults(run=_advise)

    command = commands.add_parser("embed", help="write an encoder's features of a data set's images")
    command.add_argument("dataset", help="for example folder:/my/photographs")
    command.add_argument("--encoder", required=True, help="a run or committed encoder: its name or its folder")
    command.add_argument("--split", choices=("train", "test"), help="of a folder all images if not said, else train")
    command.add_argument("--out", type=Path, default=Path("features.npy"), help="FILE.npy or FILE.parquet: features.npy")
    command.add_argument("--neighbours", nargs="+", default=[], metavar="IMAGE", help="draw its nearest images")
    command.add_argument("--suspects", metavar="COLUMN", help="or clusters: list the images where it is probably wrong")
    command.set_defaults(run=_embed)

    command = commands.add_parser("export", help="write an encoder for other programs")
    command.add_argument("encoder", help="as of embed")
    command.add_argument("--onnx", type=Path, metavar="FILE", help="for onnxruntime and others")
    command.add_argument("--state-dict", type=Path, metavar="FILE", help="for torchvision, of a ResNet")
    command.set_defaults(run=_export)


# Each imports what it needs: torch takes seconds.


def _reproduce(a: argparse.Namespace) -> None:
    from .lab import profiles

    todo = profiles.planned(a.profile, a.notebooks, a.p)  # says at once what is wrong, before torch and papermill are imported
    if a.check is not None and (a.notebooks or a.p or a.fresh or a.dry_run):
        raise ValueError("--check goes with a profile only: ./reproduce.sh cpu --check 3")
    if a.dry_run and a.fresh:
        raise ValueError("--dry-run lists what is missing, --fresh trains all: take one")
    if a.check is None and not a.dry_run:
        profiles.check_with_data(todo)  # before papermill is imported

    from .lab import reproduce

    if a.check is not None:
        return reproduce.check(a.profile, a.check)
    reproduce.reproduce(a.profile, a.notebooks, a.p, a.dry_run, a.fresh)


def _data(arguments: argparse.Namespace) -> None:
    from .lab import sheet

    print(sheet.describe(arguments.name, arguments.clusters, arguments.image_size))


def _train(arguments: argparse.Namespace) -> None:
    from . import config, device
    from .lab import runs

    chosen = config.read(arguments.config)
    with device.together():
        if device.world() > 1:
            first = device.rank() == 0
            runs.train_here(chosen, lambda done: print(f"step {done}", flush=True) if first and done % 10 == 0 else None)
        if device.rank() == 0:
            run = runs.get(chosen)
            print(f"{json.dumps(run.result, indent=1)}\nin {run.path.parent}")


def _embed(a: argparse.Namespace) -> None:
    from .lab import use

    written = use.embed(a.dataset, a.encoder, a.split, a.out, a.neighbours, a.suspects)
    print(printable(f"in {', '.join(map(str, written))}"))


def _export(arguments: argparse.Namespace) -> None:
    from .lab import use

    a, encoder = arguments, use.load(arguments.encoder)
    if not (a.onnx or a.state_dict):
        raise ValueError("nothing to write: say --onnx FILE, --state-dict FILE or both")
    if a.state_dict:
        print(printable(f"in {use.state_dict(encoder, a.state_dict)}"))
    if a.onnx:
        apart = use.onnx(encoder, a.onnx)
        checked = "not compared with torch: pip install onnxruntime" if apart is None else f"at most {apart:.1e} from torch"
        print(printable(f"in {a.onnx}, {checked}"))


def _search(arguments: argparse.Namespace) -> None:
    from .lab import search

    print(search.search(arguments.methods).to_string(index=False))


def _advise(a: argparse.Namespace) -> None:
    from .lab import advise

    print(printable(advise.advise(a.dataset, a.labels, a.labelled, a.train)))


def _check(arguments: argparse.Namespace) -> None:
    from .lab import assignments

    print(assignments.check(arguments.number, arguments.solution))


def _pages(arguments: argparse.Namespace) -> None:
    from .lab import profiles

    profiles.read(arguments.profile)  # says what is wrong with its name
    from .lab import report, site, slides

    path = report.shown((site if arguments.kind == "site" else slides).write(arguments.profile))
    print(f"Open {path if arguments.kind == 'site' else f'one of {path}/*.html'}, or have its folder served: it needs no network")


if __name__ == "__main__":
    main()
