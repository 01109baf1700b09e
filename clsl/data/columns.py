"""What the columns of a table mean: words, numbers and dates beside images → attributes, tags and clusters (docs/data.md)."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from .. import wordnet

_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "-1", "-1.0", "false", "no"}


def read(table: pd.DataFrame) -> tuple[dict[str, Any], list[str]]:
    """Attributes, tags and clusters out of columns of words; and what was left out. The second word by name is the attribute."""
    out, attributes, others, said = {}, {}, {}, []
    for name, column in table.items():
        values = sorted(column.dropna().unique())
        said_so = [value.lower() in _TRUE for value in values if value.lower() in _TRUE | _FALSE]
        if len(values) < 2 and not (values and column.isna().any()):
            said.append(f"the column {name} says the same of all images")
        elif len(values) == len(said_so) and (said_so in ([True, False], [False, True]) or len(values) == 1):
            attributes[name] = column.str.lower().isin(_TRUE)
        elif len(values) == 2:
            attributes[f"{name}={values[1]}"] = column == values[1]
        else:
            others[name] = column
    coarser = {name: _coarser(name, column) for name, column in others.items()}
    texts = [name for name, cut in coarser.items() if cut is None]
    several = {name: _several(others[name]) for name in texts}
    attributes |= {f"{name}={word}": has for name, words in several.items() for word, has in words.items()}
    if attributes:
        out["attributes"] = torch.from_numpy(np.stack([column.to_numpy(bool) for column in attributes.values()], axis=1))
        out["attribute_names"] = tuple(attributes)
    if texts:
        out["tags"] = tuple(map(_noun if several[texts[0]] else str, others[texts[0]].fillna("")))
    if others:
        for name, column in [*others.items(), *((more, cut) for cuts in coarser.values() for more, cut in (cuts or {}).items())]:
            out.setdefault("columns", {})[name] = torch.from_numpy(pd.factorize(column)[0].astype(np.int64))
        out["columns"] |= _pairs({name: out["columns"][name] for name in others})
    return out, said


def _pairs(columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Two columns taken together, "shop and camera", where both put five images together on average; of the first ten such."""
    useful = [name for name, z in columns.items() if 5 * len(z.unique()) <= len(z)][:10]
    pairs = {f"{a} and {b}": (columns[a] + 1) * (columns[b].max() + 2) + columns[b] + 1 for a, b in itertools.combinations(useful, 2)}
    return {name: z.unique(return_inverse=True)[1] for name, z in pairs.items() if name not in columns}


_DATES = (  # of the last, 03/04/2021, nobody knows which is the month
    r"(?P<year>\d{4})[-/.:](?P<month>\d\d?)[-/.:]\d\d?([T ].*)?",
    r"\d\d?\.\s?(?P<month>\d\d?)\.\s?(?P<year>\d{4})( .*)?",
    r"\d\d?/\d\d?/(?P<year>\d{4})( .*)?",
)


def _coarser(name: str, column: pd.Series) -> dict[str, pd.Series] | None:
    """A column of dates by year and month, of more than twenty numbers in quarters; None for words, {} for nothing coarser."""
    for pattern in _DATES:
        if column.dropna().str.fullmatch(pattern).all():
            found = column.str.extract(pattern)
            cuts = {f"{name} (year)": found["year"]}
            if "month" in found:
                cuts[f"{name} (month)"] = found["year"] + "-" + found["month"].str.zfill(2)
            return {each: cut for each, cut in cuts.items() if cut.nunique() > 1}
    if column.dropna().str.fullmatch(r"-?([1-9]\d{0,2}([.,]\d{3})+|\d+)").all():  # of thousands, or else in the same order
        column = column.str.replace("[.,]", "", regex=True)
    numbers = pd.to_numeric(column.str.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True), errors="coerce")
    if (~np.isfinite(numbers) & column.notna()).any():
        return None
    return {f"{name} (quarters)": pd.qcut(numbers, 4, duplicates="drop")} if numbers.nunique() > 20 else {}


def _several(column: pd.Series) -> dict[str, pd.Series]:
    """Word → whether a cell has it, where cells hold several words that come again; of the words that a hundredth of them have."""
    for separator in ";|,":
        cells = column.fillna("").map(lambda cell: {word.strip() for word in cell.split(separator)})
        counts = pd.Series([word for cell in cells for word in cell if word]).value_counts()
        if cells.map(len).max() > 1 and 2 * len(counts) <= sum(map(len, {*map(frozenset, cells)})):
            often = counts[(counts >= max(2, len(column) / 100)) & (counts < len(column))]
            return {word: cells.map(lambda cell: word in cell) for word in sorted(often.index)}
    return {}


def _noun(cell: str) -> str:
    """The first noun of WordNet among the words of a cell, else the first word."""
    words = [word.strip() for word in re.split("[;|,]", cell)]
    return next((word for word in words if wordnet.is_noun(word)), words[0])
