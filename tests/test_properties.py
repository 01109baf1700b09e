"""What must hold of any input, looked for by hypothesis: a result that says what it left out, or one line.

50 examples a property; HYPOTHESIS_PROFILE=thorough looks at 2,000.
"""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from clsl import clusters, config, data, information, losses
from clsl.config import Pretraining
from clsl.data import kept
from clsl.lab import profiles, records

PICTURES = [f"{letter}.png" for letter in "abcdef"]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=8)
CELLS = WORDS | st.sampled_from(["", "yes", "no", "1", "01", "NA", "cat", "dog", '"', ",", ";", "../x", "/etc", "=1+1", "﻿"])
on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the folder is the same for all examples


@pytest.fixture
def folder(tmp_path):
    for name in PICTURES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def read(root):
    """The labels as words by file name; None where a line says why not."""
    found = {}
    try:
        for split in ("train", "test"):
            paths, known = data.read(f"folder:{root}", split)
            assert len(paths) == len(known["labels"]) == len(set(paths)) and all(path.is_file() for path in paths)
            assert all(path.resolve().is_relative_to(root) for path in paths)
            assert all("\n" not in line for line in known["left_out"])
            for name in ("tags", "attributes"):
                assert name not in known or len(known[name]) == len(paths)
            found |= {path.name: known["class_names"][t] for path, t in zip(paths, known["labels"].tolist())}
    except OSError as error:
        assert "\n" not in str(error) and str(root) in str(error)
        return None
    return found


@on_disk
@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=8), st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_table(folder, rows, delimiter, encoding):
    rows = [[PICTURES[i], *row] if i < len(PICTURES) else row for i, row in enumerate(rows)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([["file_name", "label", "x", "y"], *rows])
    (folder / "metadata.csv").write_bytes(text.getvalue().encode(encoding))
    found = read(folder)
    expected = {row[0]: row[1].strip() for row in rows if row[0] in PICTURES and row[1].strip()}
    assert found is None or found.items() <= expected.items()


@on_disk
@given(st.binary(max_size=80) | st.tuples(st.just(b"file_name,label\na.png,x\nb.png,y\n"), st.binary(max_size=40)).map(b"".join))
def test_any_bytes_for_a_table(folder, content):
    (folder / "metadata.csv").write_bytes(content)
    read(folder)


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | WORDS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2), max_leaves=4)


@on_disk
@given(st.lists(st.fixed_dictionaries({}, optional={"file_name": st.sampled_from(PICTURES) | JSON, "label": JSON, "x": JSON}), max_size=8))
def test_any_lines_of_json(folder, rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read(folder)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["pcl", "labels", "kmeans:k=4", "lars"])


@given(st.dictionaries(st.sampled_from(list(Pretraining.__dataclass_fields__)) | st.text(max_size=5), SCALARS, max_size=4))
def test_any_configuration(fields):
    try:
        chosen = config.from_fields(fields)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    again = config.from_fields(vars(chosen))
    assert again == chosen and hash(again) == hash(chosen)
    assert all(math.isfinite(value) for value in vars(chosen).values() if isinstance(value, float))


@given(st.text(max_size=12) | st.sampled_from(["1e-2", "[4, 9]", "null", "{a: 1}", "0x10", "1_000", "yes", "[4", "!!python/name:os.system"]))
def test_any_text_for_a_parameter(text):
    try:
        profiles._typed("x", profiles._parsed("x", text), [4])
    except ValueError as error:
        assert "\n" not in str(error) and "x" in str(error)


@given(st.text(max_size=16) | st.from_regex(r"(merged|split|wordnet|column|kmeans):[a-z]*=?[0-9,=a-z]{0,12}", fullmatch=True))
def test_any_name_of_clusters(spec):
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(0, 3, (20,), generator=generator)
    images = data.Images(np.zeros((20, 1, 1, 3), np.uint8), t, tuple("abc"), (0,) * 3, (1,) * 3)
    try:
        z = clusters.make(spec, images)
    except ValueError as error:
        assert "\n" not in str(error).replace(repr(spec), "").replace(spec, "")
        return
    assert z.dtype == torch.int64 and z.unique().tolist() == list(range(int(z.max()) + 1)) and len(z) == 20


IDS = st.integers(1, 40).flatmap(lambda n: st.tuples(*(arrays.arrays(np.int64, n, elements=st.integers(-3, 3)) for _ in "zt")))


@given(IDS)
def test_information_adds_up(both):
    """0 ≤ I(Z;T) ≤ H(Z), H(T); H(Z) = I(Z;T) + H(Z|T); other names for the ids change nothing."""
    z, t = both
    h, i, rest = information.entropy(z), information.mutual_information(z, t), information.conditional_entropy(z, given=t)
    assert 0 <= i <= min(h, information.entropy(t)) + 1e-9 and rest >= 0 and h == pytest.approx(i + rest, abs=1e-9)
    assert information.mutual_information(t, 7 - 5 * z) == pytest.approx(i, abs=1e-9)


@given(IDS, st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_the_families_keep_what_they_promise(both, n, seed):
    t = torch.from_numpy(both[1])
    known = information.entropy(t.numpy())
    merged, split = clusters.merged(t, n, seed), clusters.split(t, n, seed)
    assert information.conditional_entropy(merged.numpy(), given=t.numpy()) < 1e-9
    assert information.mutual_information(split.numpy(), t.numpy()) == pytest.approx(known, abs=1e-9)
    permuted = clusters.permuted(split, t, min(n, len(t.unique())), seed)
    assert information.entropy(permuted.numpy()) == pytest.approx(information.entropy(split.numpy()), abs=1e-9)


VIEWS = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.float32, (2, n, 3), elements=st.floats(width=32)), arrays.arrays(np.int64, n, elements=st.integers(0, 3))
    )
)


@given(VIEWS, st.floats())
def test_the_loss_of_any_projections(views, temperature):
    """A finite number, the same in another order and with other ids; or one line."""
    (u, v), z = torch.from_numpy(views[0]), torch.from_numpy(views[1])
    try:
        loss = losses.cl_infonce(u, v, z, temperature)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert loss.isfinite() and temperature > 0
    assume(temperature > 0.01)  # below, rounding decides
    assert loss > -1e-3
    torch.testing.assert_close(losses.cl_infonce(u.flip(0), v.flip(0), 9 - 2 * z.flip(0), temperature), loss, rtol=1e-4, atol=1e-4)


@given(st.data())
def test_one_changed_byte_of_a_record_is_found_out(data):
    record = {"form": 1, "config": {"lr": 0.1}, "result": {"top1": 50.0}, "history": [{"epoch": 1, "loss": 1.5}], "predicted": "x"}
    record["made_by"] = {"source": "abc"}
    content = bytearray(records._text(record | {"sha256": records._checksum(record)}).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 6))
    try:
        changed = json.loads(content.decode())
        checksum = changed.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return
    assert checksum != records._checksum(changed) or changed == record  # a space for a space says the same


@on_disk
@given(st.data())
def test_one_changed_byte_of_a_checkpoint_is_found_out(tmp_path, data):
    path, fields = tmp_path / "x.pt", {"seed": 1}
    path.with_suffix(".before").unlink(missing_ok=True), path.unlink(missing_ok=True)
    kept.save(path, {"config": fields, "w": torch.arange(5.0)})
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert kept.load(path, torch.device("cpu"), fields) is None
