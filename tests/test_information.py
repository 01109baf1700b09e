import numpy as np
import pandas as pd
import pytest

from clsl import ROOT, information
from clsl.information import conditional_entropy, entropy, mutual_information

CUB = ROOT.parent / "shared" / "data" / "official" / "cub_meta_data_train.csv"


def test_known_values():
    z = np.array([7, 7, -3, -3])
    t = np.array([0, 1, 0, 1])
    assert entropy(z) == 1
    assert entropy(np.arange(8)) == 3
    assert mutual_information(z, t) == 0
    assert mutual_information(z, z) == 1
    assert conditional_entropy(z, given=t) == 1
    assert conditional_entropy(z, given=z) == 0


def test_chain_rule_and_renaming():
    random = np.random.default_rng(0)
    for _ in range(50):
        z, t = random.integers(0, random.integers(1, 9), (2, 40))
        i, h = mutual_information(z, t), conditional_entropy(z, given=t)
        assert i + h == pytest.approx(entropy(z), abs=1e-12)
        assert i == pytest.approx(mutual_information(t, z), abs=1e-12)
        assert i == pytest.approx(mutual_information(1000 - 17 * z, t), abs=1e-12)


def test_against_a_joint_table():
    z, t = np.random.default_rng(1).integers(0, 5, (2, 300))
    joint = pd.crosstab(z, t).to_numpy() / 300
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = (joint * np.log2(joint / outer, where=joint > 0, out=np.zeros_like(joint))).sum()
    assert mutual_information(z, t) == pytest.approx(expected, abs=1e-12)


@pytest.mark.skipif(not CUB.exists(), reason="the authors' file is not beside the checkout")
def test_the_authors_statistics_of_their_own_clusters():
    """Their columns H(Y|T), I(Y;T), H(Y) are our H(Z|T), I(Z;T), H(Z); the last row of the table is a count."""
    table, statistics = pd.read_csv(CUB, index_col=0), pd.read_csv(CUB.with_name(f"{CUB.stem}_stats.csv"), index_col=0)
    table = table[table.index >= 0]
    t = table["class"].to_numpy()
    assert len(table) == 5994 and len(statistics) == 16
    for column, theirs in statistics.iterrows():
        z = np.arange(len(t)) if column == "instance_id" else table[column].to_numpy().astype(int)
        ours = conditional_entropy(z, given=t), mutual_information(z, t), entropy(z)
        assert ours == pytest.approx(tuple(theirs[["H(Y|T)", "I(Y;T)", "H(Y)"]]), abs=1e-9, rel=0)


@pytest.mark.parametrize("bad", [[], [0.5, 1.0], [[1, 2]], [True, False], ["a", "b"]])
def test_refuses_what_are_no_ids(bad):
    with pytest.raises(ValueError, match="1-D array of integers"):
        entropy(bad)


def test_refuses_different_lengths():
    with pytest.raises(ValueError, match="2 and 3"):
        mutual_information([1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    "gate, expected",
    [
        (lambda a, b: a ^ b, (0, 0, 0, 1)),
        (lambda a, b: a & b, (0.311278, 0, 0, 0.5)),
        (lambda a, b: a, (0, 1, 0, 0)),
        (lambda a, b: 2 * a + b, (1, 0, 0, 1)),  # what the measure is criticised for
    ],
)
def test_partial_information_of_two_fair_bits(gate, expected):
    """As in Williams and Beer (2010); the parts add up to I(S1,S2;T)."""
    a, b = [0, 0, 1, 1], [0, 1, 0, 1]
    t = [gate(x, y) for x, y in zip(a, b)]
    parts = information.partial_information(a, b, t)
    assert tuple(parts) == ("redundant", "unique_1", "unique_2", "synergistic")
    assert tuple(parts.values()) == pytest.approx(expected, abs=1e-6)
    pair = [2 * x + y for x, y in zip(a, b)]
    assert sum(parts.values()) == pytest.approx(information.mutual_information(pair, t))


def test_partial_information_of_a_copied_bit():
    parts = information.partial_information([0, 1], [0, 1], [1, 0])
    assert parts == {"redundant": 1, "unique_1": 0, "unique_2": 0, "synergistic": 0}
