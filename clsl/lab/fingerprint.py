"""The name of a run: a hash of its whole configuration and of the code that can change its numbers.

So an old number never stands for new code, and a reworded message, a docstring or a reader of another data set orphans nothing.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator

from .. import ROOT
from ..config import Pretraining
from ..data import DATASETS, cifar
from ..methods import METHODS

_FLOOR = "information wordnet clusters augment encoders losses methods/method train evaluate device data/__init__".split()


def name(config: Pretraining) -> str:
    """The method, and a hash of the configuration and of the source that can change its numbers."""
    key = json.dumps(dataclasses.asdict(config), sort_keys=True) + source(config)
    return f"{config.method}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def source(config: Pretraining) -> str:
    """A hash of the code that can change a configuration's numbers: the method's floor, its method, its data set's reader."""
    module = METHODS[config.method].module
    classes = [module.func, *module.args] if isinstance(module, functools.partial) else [module]
    methods = {base.__module__ for each in classes for base in each.__mro__ if base.__module__.startswith("clsl.")}
    kinds = {name.partition(":")[0] for name in (config.dataset, config.transfer) if name}
    return _digest(tuple(sorted(m.removeprefix("clsl.").replace(".", "/") for m in methods)), tuple(sorted(kinds)))


@functools.cache
def _digest(methods: tuple[str, ...], kinds: tuple[str, ...]) -> str:
    called = [(file, None) for file in dict.fromkeys([*_FLOOR, *methods])]
    called += [(reader.__module__.removeprefix("clsl.").replace(".", "/"), reader.__name__) for reader in (DATASETS[kind].read for kind in kinds)]
    if set(kinds) - set(cifar.DATASETS):
        called += [("data/packing", None), *(("data/own", name) for name in ("drawn", "files", "selected"))]
    if "folder" in kinds:
        called += [("data/columns", "read"), ("data/spreadsheet", "rows")]
    return hashlib.sha256(repr([tuple(_code(*each)) for each in called]).encode()).hexdigest()[:12]


def _code(file: str, reader: str | None = None) -> Iterator[str]:
    """What counts in a file: each definition, without what cannot change a number; of a reader's file only what the reader uses."""
    tree = ast.parse((ROOT / "clsl" / f"{file}.py").read_text(encoding="utf-8"))
    if reader is None:
        yield from filter(None, map(_plain, tree.body))
        return
    defined = {name: node for node in tree.body for name in _names(node)}
    wanted, used = [reader], set()
    while wanted:
        if (name := wanted.pop()) in defined and name not in used:
            used.add(name)
            wanted += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    yield from (_plain(defined[name]) for name in sorted(used))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return [node.name] if hasattr(node, "name") else []


def _plain(node) -> str:
    """A syntax tree as text, the same under every version of Python.

    Left out are comments, docstrings, type hints, imports, what an error says, and checks: conditions that only raise an error,
    functions named check, or check_ and more, and calls of these as statements. A reworded message or one more check changes no number.
    """
    if isinstance(node, list):
        kept = [item for item in node if not (isinstance(item, ast.stmt) and _idle(item))]
        return "[" + ",".join(map(_plain, kept)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.stmt) and _idle(node):
        return ""
    if isinstance(node, ast.Raise):
        return "Raise"
    parts = [(field, value) for field, value in ast.iter_fields(node) if value not in (None, []) and field not in _HINTS]
    return f"{type(node).__name__}({','.join(f'{field}={_plain(value)}' for field, value in sorted(parts))})"


_CHECK = re.compile("_?check(_|$)")
_HINTS = ("annotation", "returns", "type_comment", "kind", "type_params", "ctx")


def _idle(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return bool(_CHECK.match(node.name))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        return bool(_CHECK.match(getattr(called, "id", getattr(called, "attr", ""))))
    if isinstance(node, ast.If):
        return not node.orelse and all(isinstance(each, ast.Raise) for each in node.body)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return text or isinstance(node, (ast.Import, ast.ImportFrom))
