"""The usual faults of a spreadsheet and a camera: each is read as a person would, or said in one line with its place."""

import re

import numpy as np
import pytest
from PIL import Image

from clsl import data

NAMES = [f"{letter}.jpg" for letter in "abcdefghij"]
LABELS = dict(zip(NAMES, ["cat", "dog"] * 5))
ROWS = [f"{name},{label}" for name, label in LABELS.items()]


def noise(seed=0, size=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def half():
    """White on the left, black on the right, 60 pixels wide and 40 high."""
    out = np.zeros((40, 60, 3), np.uint8)
    out[:, :30] = 255
    return Image.fromarray(out)


def lay(root, text, encoding="utf-8", rename=None, name="metadata.csv"):
    """Ten photographs, one of them under another name, and a table."""
    for i, photograph in enumerate(NAMES):
        path = root / (rename or {}).get(photograph, photograph)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i)).save(path, format="JPEG")
    (root / name).write_bytes(text.encode(encoding))
    return f"folder:{root}"


def csv(*rows, header="file_name,label"):
    return "\n".join([header, *(rows or ROWS)]) + "\n"


def read(folder):
    """Both splits together: label by file, what was left out, and what is known of the images to train on."""
    splits = [data.read(folder, split) for split in ("train", "test")]
    labels = {path.name: known["class_names"][t] for paths, known in splits for path, t in zip(paths, known["labels"].tolist())}
    return labels, [line for _, known in splits for line in known["left_out"]], splits[0][1]


def renamed(old, new):
    return {new if name == old else name: label for name, label in LABELS.items()}


TABLES = {  # what is written, and what of it differs from the ten rows: files that are renamed, labels by file, lines left out
    "1 a mark at the start": (dict(text=csv(), encoding="utf-8-sig"), LABELS, []),
    "2 neither commas nor semicolons, and the line in which Excel says so": (dict(text="sep=|\r\n" + csv().replace(",", "|")), LABELS, []),
    "3 quotes around all, and a comma within": (
        dict(text=csv(*[f'"{name}","{label}, brown"' for name, label in LABELS.items()])),
        {name: f"{label}, brown" for name, label in LABELS.items()},
        [],
    ),
    "4 lines and letters of Windows": (dict(text=csv().replace("\n", "\r\n"), encoding="utf-16"), LABELS, []),
    "5 headings as a person writes them": (dict(text=csv(header="File Name, Label ")), LABELS, []),
    "6 columns and rows that are empty": (dict(text=csv(*[f"{row},," for row in ROWS], ",,,", header="file_name,label,,")), LABELS, []),
    "7 a row twice": (dict(text=csv(*ROWS, ROWS[3])), LABELS, ["metadata.csv, line 12: d.jpg is listed twice"]),
    "8 a label that is missing": (dict(text=csv(*ROWS[:9], "j.jpg,")), dict(list(LABELS.items())[:9]), ["line 11: j.jpg has no label"]),
    "9 folders as Windows writes them": (dict(text=csv("2021\\a b.jpg,cat", *ROWS[1:]), rename={"a.jpg": "2021/a b.jpg"}), renamed("a.jpg", "a b.jpg"), []),
    "10 the path on another computer": (dict(text=csv("C:\\Users\\me\\a.jpg,cat", *ROWS[1:]), rename={"a.jpg": "2021/a.jpg"}), LABELS, []),
    "11 large letters on the disk only": (dict(text=csv(), rename={"a.jpg": "A.JPG"}), renamed("a.jpg", "A.JPG"), []),
    "12 an accent taken apart": (dict(text=csv("caf\u00e9.jpg,cat", *ROWS[1:]), rename={"a.jpg": "cafe\u0301.jpg"}), renamed("a.jpg", "cafe\u0301.jpg"), []),
    "10a the path on a Macintosh": (dict(text=csv("/Users/me/a.jpg,cat", *ROWS[1:]), rename={"a.jpg": "2021/a.jpg"}), LABELS, []),
    "10b a name that two files have": (
        dict(text=csv(*ROWS[1:], "x.jpg,cat"), rename={"a.jpg": "2021/x.jpg", "b.jpg": "2022/x.jpg"}),
        dict(list(LABELS.items())[2:]),
        ["line 2: b.jpg is not there", "line 11: x.jpg could be one of several", "2 images have no row"],
    ),
    "12a cells beside the table": (dict(text=csv(f"{ROWS[0]},,", *ROWS[1:], " , , ")), LABELS, []),
    "12b a table with another name of its own": (dict(text=csv(), name="Metadata.CSV"), LABELS, []),
    "13 a file that has gone": (dict(text=csv(*ROWS, "k.jpg,cat")), LABELS, ["metadata.csv, line 12: k.jpg is not there"]),
}
REFUSED = {
    "14 the letters of an old Windows": (dict(text=csv("a.jpg,caf\u00e9"), encoding="cp1252"), "metadata.csv, line 2: not in UTF-8: save it as UTF-8"),
    "15 a quote left open": (dict(text=csv(*ROWS[:3], 'd.jpg,"dog', *ROWS[4:])), r"metadata.csv, line 5: .*is a quote left open\?"),
    "14a a row cut off": (dict(text=csv(*ROWS[:3], "d.jpg")), r"metadata.csv, line 5: 1 fields, and 2 columns: is the row cut off\?"),
    "14b the spreadsheet itself": (dict(text="x", name="metadata.xlsx"), "metadata.xlsx is the spreadsheet's own: save it as metadata.csv"),
    "14c one group": (dict(text=csv(*[f"{row},me" for row in ROWS], header="file_name,label,Group")), "has one group only, me: it takes two"),
    "16 two labels for one image": (dict(text=csv(*ROWS, "a.jpg,dog")), "metadata.csv, lines 2 and 12: a.jpg has two labels, 'cat' and 'dog'"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_a_person_would(name, tmp_path):
    written, labels, lines = TABLES[name]
    found, left_out, _ = read(lay(tmp_path, **written))
    assert found == labels and len(left_out) == len(lines) and all(map(re.search, lines, left_out)), left_out


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_is_refused_in_one_line_that_says_where(name, tmp_path):
    written, message = REFUSED[name]
    with pytest.raises(OSError, match=message) as said:
        read(lay(tmp_path, **written))
    assert "\n" not in str(said.value)


def columns(root, header, values):
    rows = [f"{row.replace(',', ';')};{value}" for row, value in zip(ROWS, values)]
    return read(lay(root, csv(*rows, header=f"file_name;label;{header}")))[2]


def test_17_a_column_of_dates(tmp_path):
    """It is no tag; years and months are clusters, but no month where 03/04/2021 could be of either."""
    known = columns(tmp_path, "taken", [f"{2019 + i % 3}:0{1 + i % 2}:1{i} 12:00:00" for i in range(10)])
    assert "tags" not in known and set(known["columns"]) == {"taken", "taken (year)", "taken (month)"}
    assert len(known["columns"]["taken (year)"].unique()) == 3
    assert set(columns(tmp_path, "taken", [f"3/{i}/{2019 + i % 3}" for i in range(10)])["columns"]) == {"taken", "taken (year)"}
    assert len(columns(tmp_path, "taken", [f"1{i}.{1 + i // 5}.2020" for i in range(10)])["columns"]["taken (month)"].unique()) == 2


def test_18_cells_that_are_missing(tmp_path):
    """A gap is a cluster of its own, and never a tag or a yes."""
    known = columns(tmp_path, "shop;indoors", [f"{('north', '', 'east', 'south')[i % 4]};{('yes', '')[i % 2]}" for i in range(10)])
    assert known["attribute_names"] == ("indoors",) and "" in known["tags"]
    assert set(known["columns"]) == {"shop"} and known["columns"]["shop"].min() == -1 and known["attributes"][:, 0].float().mean() < 1


def test_19_several_tags_in_a_cell(tmp_path):
    """Each that comes again is an attribute; the first that is a noun is the tag."""
    known = columns(tmp_path, "seen", [("xyzzy, cat", "dog, park", "park", "cat, park", "dog")[i % 5] for i in range(9)] + ["cat"])
    assert known["attribute_names"] == ("seen=cat", "seen=dog", "seen=park", "seen=xyzzy")[: len(known["attribute_names"])]
    assert set(known["tags"]) <= {"cat", "dog", "park"}


def test_20_numbers_with_a_comma(tmp_path):
    known = columns(tmp_path, "price", [f'"{i},5"' for i in range(10)])
    assert "tags" not in known and set(known["columns"]) == {"price"}


def test_20a_thousands_and_what_is_no_number(tmp_path):
    """1,036 is more than 185, and inf is a word."""
    for name in ("a", "b"):
        values = [f"{i // 1000},{i % 1000:03}" if i > 999 else str(i) for i in range(0, 4000, 100)]
        values[0] = "inf" if name == "b" else "0"
        (tmp_path / name).mkdir()
        for i in range(40):
            (tmp_path / name / f"{i}.jpg").touch()
        rows = [f'{i}.jpg,{i % 2},"{value}"' for i, value in enumerate(values)]
        (tmp_path / name / "metadata.csv").write_text(csv(*rows, header="file_name,label,size"))
    paths, known = data.read(f"folder:{tmp_path / 'a'}", "train")
    quarter = [min(3, int(path.stem) // 10) for path in paths]
    assert len({*zip(quarter, known["columns"]["size (quarters)"].tolist())}) == 4 and known.get("synsets") is None
    assert "tags" in data.read(f"folder:{tmp_path / 'b'}", "train")[1]


def test_a_column_may_say_what_is_tested_on(tmp_path):
    rows = [f"{row},{('Train', 'train', 'VAL')[i % 3]}" for i, row in enumerate(ROWS)]
    folder = lay(tmp_path, csv(*rows, header="file_name,label,Split"))
    train, test = (sorted(path.stem for path in data.read(folder, split)[0]) for split in ("train", "test"))
    assert "".join(train) == "abdeghj" and "".join(test) == "cfi" and "attributes" not in data.read(folder, "train")[1]


def test_groups_that_are_the_classes_leave_nothing_to_test_on(tmp_path):
    folder = lay(tmp_path, csv(*[f"{name},{name[0]},{name[0]}" for name in NAMES], header="file_name,label,group"))
    with pytest.raises(OSError, match="has no images to test on: 2 images to test are of classes that train lacks"):
        data.read(folder, "test")


def decoded(root, save):
    """The pixels of a photograph that replaces the first one, or the line that says why it is left out."""
    folder = lay(root, csv())
    save(root / "a.jpg")
    splits = [data.load(folder, split, image_size=32) for split in ("train", "test")]
    found = {name.split("/")[-1]: pixels for images in splits for name, pixels in zip(images.files, images.images)}
    return found.get("a.jpg"), [line for images in splits for line in images.left_out]


def test_21_a_photograph_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right to see it upright
    pixels, left_out = decoded(tmp_path, lambda path: half().save(path, exif=exif))
    assert pixels[:12].mean() > 240 and pixels[-12:].mean() < 15 and not left_out


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_22_and_23_other_colours(mode, tmp_path):
    pixels, left_out = decoded(tmp_path, lambda path: half().convert(mode).save(path))
    assert pixels[:, :12].mean() > 240 and pixels[:, -12:].mean() < 15 and not left_out


def test_24_sixteen_bits_a_channel_and_no_jpeg(tmp_path):
    sixteen = Image.fromarray(np.asarray(half().convert("L")).astype(np.uint16) * 257)
    pixels, left_out = decoded(tmp_path, lambda path: sixteen.save(path, format="PNG"))
    assert pixels[:, :12].mean() > 240 and pixels[:, -12:].mean() < 15 and not left_out


@pytest.mark.parametrize(
    "content, message",
    [(None, "a.jpg: image file is truncated"), (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.jpg: HEIC, .* save it as JPEG"), (b"", "a.jpg: an empty file")],
)
def test_25_a_file_that_cannot_be_read(content, message, tmp_path):
    def write(path):
        content is None and Image.fromarray(noise(0, (300, 300))).save(path)
        path.write_bytes(path.read_bytes()[:9000] if content is None else content)

    pixels, left_out = decoded(tmp_path, write)
    assert pixels is None and len(left_out) == 1 and re.search(message, left_out[0]), left_out


def test_without_a_split_whole_groups_are_tested_on(tmp_path):
    rows = [f"{row},{'abcde'[i // 2]}" for i, row in enumerate(ROWS)]
    folder = lay(tmp_path, csv(*rows, header="file_name,label,group"))
    train, test = ({path.stem for path in data.read(folder, split)[0]} for split in ("train", "test"))
    assert len(test) == 2 and not train & test and test in [set(pair) for pair in ("ab", "cd", "ef", "gh", "ij")]
