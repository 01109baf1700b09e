import json

import pandas as pd
import pytest

from clsl import ROOT, methods, search


def test_every_method_gets_a_search_of_the_same_size():
    assert {len(set(search.grid(method))) for method in methods.METHODS} == {6}


def test_no_search_looks_at_the_test_images():
    for method in methods.METHODS:
        assert search._config(method, 0.1, 0.1).tested_on == "held_out"


def test_an_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'simclear': choose from simclr"):
        search.search(["simclear"])


def test_the_settings_are_what_the_search_found():
    """python -m clsl search writes both."""
    table = pd.read_csv(ROOT / "figures" / "search.csv")
    assert table["method"].value_counts().to_dict() == {method: 6 for method in methods.METHODS}
    assert search.best(table) == methods.SETTINGS
    assert json.loads((ROOT / "clsl" / "settings.json").read_text()) == methods.SETTINGS
