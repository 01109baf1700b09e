import json

import pandas as pd
import pytest

from clsl import ROOT, methods
from clsl.config import SETTINGS
from clsl.lab import search

SEARCHED = [method for method in methods.METHODS if not method.endswith("+progressive")]


def test_every_method_gets_a_search_of_the_same_size():
    assert {len(set(search.grid(method))) for method in SEARCHED} == {6}


def test_no_search_looks_at_the_test_images():
    for method in SEARCHED:
        assert search._config(method, 0.1, 0.1).tested_on == "held_out"


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'simclear': choose from simclr"):
        search.search(["simclear"])


def test_the_settings_are_what_the_search_found():
    """python -m clsl search writes both."""
    table = pd.read_csv(ROOT / "figures" / "search.csv")
    assert table["method"].value_counts().to_dict() == {method: 6 for method in SEARCHED}
    found = search.best(table)
    assert json.loads((ROOT / "clsl" / "searched.json").read_text()) == found
    assert all(SETTINGS[method] == found[method.removesuffix("+progressive")] for method in methods.METHODS)
