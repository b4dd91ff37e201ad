"""Image files, good and bad, in folders and in tables."""

import csv
import os
import shutil
import unicodedata
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from apportion.config.data import Folder
from apportion.datasets import duplicates, load
from apportion.errors import DataError

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def write(file, seed=0, size=(8, 8), **options):
    """A noise image of its own for every seed; returns its file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, size)).save(file, **options)
    return file


def noise(seed=0, size=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def read(path, **options):
    defaults = {"source": "folder", "path": str(path), "resolution": 8, "min_images": 1}
    return load(Folder(**(defaults | options)))


def refused(path, *parts, **options):
    """Asserts that reading is refused, with all `parts` in the message, and returns the message."""
    with pytest.raises(DataError) as error:
        read(path, **options)
    for part in parts:
        assert part in str(error.value)
    return str(error.value)


@pytest.fixture
def root(tmp_path):
    """Ada gave images 0..2, Bob images 10 and 11."""
    for i in range(3):
        write(tmp_path / "data" / "ada" / f"{i}.png", i)
    for i in range(10, 12):
        write(tmp_path / "data" / "bob" / f"{i}.png", i)
    return tmp_path / "data"


def only(root, name="one"):
    """The pixels of the one image that a contributor gave."""
    (contribution,) = [c for c in read(root) if c.name == name]
    assert len(contribution) == 1
    return contribution.pixels[0]


# Folders


def test_a_folder_per_contributor(root):
    write(root / "bob" / "deep" / "er" / "12.PNG", 12)
    ada, bob = read(root)
    assert (ada.name, bob.name) == ("ada", "bob")
    assert sorted(ada.titles) == ["ada/0.png", "ada/1.png", "ada/2.png"]
    assert sorted(bob.titles) == ["bob/10.png", "bob/11.png", "bob/deep/er/12.PNG"]
    for contribution in (ada, bob):
        for pixels, title in zip(contribution.pixels, contribution.titles, strict=True):
            assert np.array_equal(pixels, noise(int(Path(title).stem)))
    assert (ada.joined, ada.label) == (None, None)


def test_the_data_hash_depends_on_pixels_and_flips_and_not_on_file_names(root):
    before = [c.data_hash for c in read(root)]
    (root / "ada" / "0.png").rename(root / "ada" / "zz.png")
    write(root / "ada" / "1.png", 1, optimize=True, compress_level=1)
    assert [c.data_hash for c in read(root)] == before
    (root / "ada").rename(root / "zoe")
    assert [c.data_hash for c in read(root)] == before[::-1]
    assert not set(before) & {c.data_hash for c in read(root, flip=False)}
    write(root / "zoe" / "1.png", 99)
    assert read(root)[1].data_hash != before[0]


def test_flip_is_the_option(root):
    assert all(c.flip.all() for c in read(root))
    assert not any(c.flip.any() for c in read(root, flip=False))


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "jpg", "jpeg", "JPG"])
def test_formats(root, suffix):
    grey = np.full((8, 8, 3), 119, np.uint8)
    (root / "one").mkdir()
    Image.fromarray(grey).save(root / "one" / f"x.{suffix}")
    assert np.abs(only(root).astype(int) - grey).max() <= 1


def test_the_content_decides_on_the_format_and_not_the_suffix(root):
    write(root / "one" / "x.png", 5).rename(root / "one" / "x.jpg")
    assert np.array_equal(only(root), noise(5))


def test_a_hidden_folder_with_images_is_named(root, caplog):
    shutil.copytree(root / "ada", root / ".cy")
    (root / ".git").mkdir()
    assert {c.name for c in read(root)} == {"ada", "bob"}
    assert "hidden folders are ignored, but '.cy' hold images" in caplog.text


def test_hidden_files_are_ignored(root):
    names = [".DS_Store", "ada/.DS_Store", "ada/Thumbs.db", "ada/._0.png", ".git/config"]
    for name in (*names, "__MACOSX/x", "bob/desktop.ini"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"litter")
    assert [len(c) for c in read(root)] == [3, 2]


def test_names_of_one_spelling(root):
    write(root / unicodedata.normalize("NFD", "Jäger") / "0.png", 20)
    assert read(root)[0].name == unicodedata.normalize("NFC", "Jäger")


def test_duplicates_of_files(root):
    write(root / "bob" / "copy.png", 1)
    write(root / "bob" / "again.png", 1)
    (warning,) = duplicates(read(root))
    assert "'ada' (ada/1.png) and 'bob' (bob/" in warning


# From files to pixels


def test_exif_orientation_is_applied(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    write(root / "one" / "x.png", 5, exif=exif)
    assert np.array_equal(only(root), np.rot90(noise(5), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_composed_on_white(root, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    options = {}
    if mode in {"P", "RGB"}:  # these name one colour that is transparent
        image = Image.new("RGB", (8, 8), RED)
        image.paste((0, 0, 0), (4, 0, 8, 8))
        image = image.quantize(4) if mode == "P" else image
        options["transparency"] = image.getpixel((0, 0))
    (root / "one").mkdir()
    image.convert(mode).save(root / "one" / "x.png", **options)
    pixels = only(root)
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == 0).all()


def test_half_transparency_is_half_white(root):
    (root / "one").mkdir()
    Image.new("RGBA", (8, 8), (*GREEN, 51)).save(root / "one" / "x.png")
    expected = 0.2 * np.array(GREEN) + 0.8 * np.array(WHITE)
    assert np.abs(only(root) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes_become_rgb(root, mode):
    image = Image.new("RGB", (8, 8), WHITE)
    image.paste((0, 0, 0), (0, 0, 4, 8))
    (root / "one").mkdir()
    if mode == "CMYK":
        image.convert(mode).save(root / "one" / "x.jpg", quality=100)
    else:
        image.convert(mode).save(root / "one" / "x.png")
    assert np.abs(only(root).astype(int) - np.asarray(image)).max() <= 2


def test_sixteen_bit_grey_is_scaled_not_clipped(root):
    grey = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    (root / "one").mkdir()
    Image.fromarray(grey).save(root / "one" / "x.png")
    assert np.array_equal(only(root)[..., 0], np.round(grey / 65535 * 255))
    Image.fromarray(grey).save(root / "one" / "x.png", transparency=2000)
    assert only(root)[0, 2, 1] == 255


def test_an_animation_gives_its_first_frame(root):
    (root / "one").mkdir()
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(root / "one" / "x.gif", save_all=True, append_images=frames[1:])
    assert (only(root) == RED).all()


def test_crop_takes_the_middle_square_and_shrinks_it(root):
    for size in ((40, 20), (20, 40)):
        image = Image.new("RGB", size, RED)
        left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
        image.paste(GREEN, (left, top, left + 20, top + 20))
        image.paste(WHITE, (left, top, left + 10, top + 20))
        (root / "one").mkdir(exist_ok=True)
        image.save(root / "one" / "x.png")
        (one,) = [c for c in read(root, resize="crop") if c.name == "one"]
        assert one.pixels.shape == (1, 8, 8, 3)
        assert (one.pixels[0, :, 0] == WHITE).all()  # without any red at the edge
        assert (one.pixels[0, :, -1] == GREEN).all()


def test_crop_leaves_images_of_the_right_size_alone(root):
    plain = [c.data_hash for c in read(root)]
    assert [c.data_hash for c in read(root, resize="crop")] == plain


# Images that are refused


def test_other_sizes_are_listed_together(root):
    for i in range(14):
        write(root / "cy" / f"{i:02d}.png", 30 + i, (12, 9))
    parts = ["found 14 images of another size, expected 8x8", "data.resize=crop"]
    message = refused(root, *parts, "cy/00.png: 12x9 pixels", "… and 4 more")
    assert "cy/09.png" in message
    assert "cy/10.png" not in message


@pytest.mark.parametrize("resize", ["refuse", "crop"])
def test_small_images_are_never_enlarged(root, resize):
    write(root / "ada" / "s.png", 40, (30, 7))
    parts = ["found 1 images smaller than 8x8", "ada/s.png: 30x7 pixels", "data.resolution"]
    refused(root, *parts, resize=resize)


def test_unreadable_images_are_all_named(root):
    whole = (root / "ada" / "0.png").read_bytes()
    (root / "ada" / "empty.png").write_bytes(b"")
    (root / "ada" / "text.jpg").write_text("not an image")
    (root / "ada" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "ada" / "flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    jpeg = write(root / "bob" / "cut.jpg", 7, (64, 64)).read_bytes()
    (root / "bob" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    write(root / "bob" / "wide.png", 8, (9, 8))
    parts = ["found 5 files that cannot be read as images", "found 1 images of another size"]
    message = refused(root, *parts, "bob/wide.png")
    for name in ("ada/empty.png", "ada/text.jpg", "ada/cut.png", "ada/flipped.png", "bob/cut.jpg"):
        assert name in message


def test_other_decoders_are_never_used(root):
    write(root / "ada" / "x.tiff", 5).rename(root / "ada" / "x.png")
    refused(root, "found 1 files that cannot be read as images", "ada/x.png")


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(root):
    Image.new("1", (20_000, 20_000)).save(root / "ada" / "large.png")
    assert (root / "ada" / "large.png").stat().st_size < 1e5
    parts = ["found 1 images of more than 200000000 pixels", "ada/large.png: 20000x20000", "data.max_pixels"]
    refused(root, *parts, resize="crop")


def test_the_option_alone_says_how_many_pixels_are_too_many(root, monkeypatch):
    """Pillow would warn from this limit on, and refuse from twice the limit on."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert len(read(root, max_pixels=64)) == 2
    refused(root, "found 5 images of more than 63 pixels", "ada/0.png: 8x8", max_pixels=63)


def test_limits_of_the_decoder_are_as_before(root):
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    read(root)
    (root / "ada" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(root)
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_files_that_are_not_images_are_named(root):
    (root / "ada" / "notes.txt").write_text("hello")
    (root / "bob" / "x.svg").write_text("<svg/>")
    refused(root, "found 2 files", "ada/notes.txt: text", "bob/x.svg: an SVG drawing", "WEBP")


def test_files_beside_the_folders_are_refused(root):
    write(root / "stray.png", 5)
    (root / "README.md").write_text("hello")
    refused(root, "found 2 files or links", "'README.md'", "'stray.png'", "one per contributor")


# Links and pipes


def test_links_that_lead_outside_are_refused(root, tmp_path):
    secret = write(tmp_path / "secret.png", 5)
    (root / "ada" / "x.png").symlink_to(secret)
    refused(root, "found 1 paths that lead outside", "ada/x.png")


def test_links_inside_are_read(root):
    (root / "bob" / "x.png").symlink_to(root / "bob" / "10.png")
    assert [len(c) for c in read(root)] == [3, 3]


def test_the_folder_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert [c.data_hash for c in read(tmp_path / "link")] == [c.data_hash for c in read(root)]


def test_links_to_folders_are_not_followed(root):
    (root / "ada" / "loop").symlink_to(root / "ada")
    refused(root, "ada/loop", "links to folders are not followed")
    (root / "ada" / "loop").unlink()
    (root / "cy").symlink_to(root / "bob")
    refused(root, "found 1 files or links", "'cy'")


@pytest.mark.parametrize(
    "make",
    [lambda file: file.symlink_to("x.png"), lambda file: file.symlink_to("absent.png"), os.mkfifo],
)
def test_circles_dangling_links_and_pipes_are_refused(root, make):
    make(root / "ada" / "x.png")
    refused(root, "found 1 paths", "ada/x.png")


# Contributors


def test_too_few_images_are_counted_by_contributor(root):
    message = refused(root, min_images=3)
    assert message == "found 2 images for contributor 'bob', need at least 3 (data.min_images)"
    (root / "cy").mkdir()
    assert refused(root, min_images=4).splitlines() == [
        f"found {count} images for contributor {name!r}, need at least 4 (data.min_images)"
        for name, count in (("ada", 3), ("bob", 2), ("cy", 0))
    ]


def test_many_with_too_few_are_counted(root):
    for i in range(20):
        (root / f"c{i:02d}").mkdir()
    assert len(refused(root, "… and 10 more").splitlines()) == 11


def test_folders_without_contributors(root, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found no folders", "data.path")
    (tmp_path / "single" / "ada").mkdir(parents=True)
    write(tmp_path / "single" / "ada" / "0.png")
    refused(tmp_path / "single", "found 1 contributors ['ada'], need at least 2")


@pytest.mark.parametrize("path", ["absent", "data/ada/0.png", "~nobody-of-this-name/x", "s3://bucket/images"])
def test_a_path_that_is_neither_a_folder_nor_a_table(root, path):
    refused(path if path[0] in "~s" else root.parent / path, "data.path")


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[31mb", "a\\b", "x" * 101, " ada", "ada ", "a\u202eb", "\udcff"]
)
def test_names_of_folders_that_are_refused(root, name):
    write(root / name / "0.png", 50)
    refused(root, "found 1 contributor names that cannot be used").encode()


def test_titles_can_be_printed_and_written(root):
    write(root / "ada" / "x\n\x1b.png", 50).rename(os.fsdecode(os.fsencode(root) + b"/ada/x\n\xff.png"))
    (title,) = [t for t in read(root)[0].titles if "x" in t]
    assert title == "ada/x\\n\\udcff.png"


# Tables


def table(root, rows, columns=("path", "contributor"), kind="csv"):
    """The file of a table with these rows."""
    file = root / f"table.{kind}"
    if kind == "csv":
        with file.open("w", newline="", encoding="utf-8") as text:
            csv.writer(text).writerows([columns, *rows])
    else:
        cells = map(list, zip(*rows, strict=True))
        pq.write_table(pa.table(dict(zip(columns, cells, strict=True))), file)
    return file


ROWS = [
    ("ada/0.png", "Ada"),
    ("ada/1.png", "Ada"),
    ("ada/2.png", "Bob"),
    ("bob/10.png", "Bob"),
    ("bob/11.png", "Bob"),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_says_who_gave_which_image(root, kind):
    (root / "ada" / "notes.txt").write_text("not listed, so not read")
    ada, bob = read(table(root, ROWS, kind=kind))
    assert (ada.name, sorted(ada.titles)) == ("Ada", ["ada/0.png", "ada/1.png"])
    assert (bob.name, sorted(bob.titles)) == ("Bob", ["ada/2.png", "bob/10.png", "bob/11.png"])
    assert (ada.label, ada.joined) == (None, None)
    for contribution in (ada, bob):
        for pixels, title in zip(contribution.pixels, contribution.titles, strict=True):
            assert np.array_equal(pixels, noise(int(Path(title).stem)))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_and_dates(root, kind):
    columns = ("path", "contributor", "label", "joined")
    rows = [
        ("ada/0.png", "Ada", "cat", "2026-03-01"),
        ("ada/1.png", "Ada", "", "2025-12-31T08:00:00"),
        ("ada/2.png", "Ada", "dog", ""),
        ("bob/10.png", "Bob", "", ""),
    ]
    ada, bob = read(table(root, rows, columns, kind))
    assert dict(zip(ada.titles, ada.label, strict=True)) == {
        "ada/0.png": "cat",
        "ada/1.png": None,
        "ada/2.png": "dog",
    }
    assert (ada.joined, bob.joined, bob.label) == ("2025-12-31", None, None)


def test_parquet_types_of_other_tools(root):
    """Dates, times, numbers, categories and nulls, as pandas writes them."""
    cells = pa.table(
        {
            "contributor": pa.array(["Ada", "Ada", "Bob"]).dictionary_encode(),
            "path": [row[0] for row in ROWS[:3]],
            "label": pa.array([1, None, 2]),
            "joined": pa.array([date(2026, 1, 2), None, date(2024, 5, 6)]),
        }
    )
    pq.write_table(cells, root / "m.parquet")
    ada, bob = read(root / "m.parquet")
    assert dict(zip(ada.titles, ada.label, strict=True)) == {"ada/0.png": "1", "ada/1.png": None}
    assert (ada.joined, bob.joined) == ("2026-01-02", "2024-05-06")
    times = pa.array([datetime(2026, 1, 2, 3, 4), None, None], pa.timestamp("ns"))
    pq.write_table(cells.set_column(3, "joined", times), root / "m.parquet")
    assert read(root / "m.parquet")[0].joined == "2026-01-02"


def test_a_table_with_a_byte_order_mark_and_blank_lines(root):
    text = "\ufeffpath,contributor\r\n" + "\r\n".join(f"{path},{name}\r\n" for path, name in ROWS)
    (root / "m.csv").write_text(text, encoding="utf-8", newline="")
    assert [len(c) for c in read(root / "m.csv")] == [2, 3]


def test_an_image_may_be_given_by_two_contributors_but_not_twice_by_one(root):
    assert len(duplicates(read(table(root, [*ROWS, ("ada/0.png", "Bob")])))) == 1
    repeated = table(root, [*ROWS, ("./ada/0.png", "Ada")])
    refused(repeated, "found 2 rows", "line 2: ada/0.png", "line 7: ./ada/0.png", "repeat an image")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "ada/../../secret.png",
        "ada/../ada/0.png",
        "{root}/ada/0.png",
        "/etc/hostname",
        "..",
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_paths_that_may_leave_the_folder_are_refused(root, path, kind):
    write(root.parent / "secret.png", 5)
    file = table(root, [*ROWS, (path.format(root=root), "Ada")], kind=kind)
    refused(file, "found 1 paths", "absolute or contain '..'")


def test_links_in_a_table_that_lead_outside_are_refused(root, tmp_path):
    write(tmp_path / "secret" / "x.png", 5)
    (root / "x.png").symlink_to(tmp_path / "secret" / "x.png")
    (root / "folder").symlink_to(tmp_path / "secret")
    file = table(root, [*ROWS, ("x.png", "Ada"), ("folder/x.png", "Ada")])
    refused(file, "found 2 paths that lead outside", "folder/x.png")


def test_a_folder_whose_name_starts_with_that_of_the_root_is_outside(root, tmp_path):
    write(tmp_path / "data2" / "x.png", 5)
    (root / "x.png").symlink_to(tmp_path / "data2" / "x.png")
    refused(table(root, [*ROWS, ("x.png", "Ada")]), "lead outside")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ada/absent.png", "that lead to no file"),
        ("ada", "that lead to no file"),
        ("ada/n.txt", "ada/n.txt: text, not an image"),
        ("a\0b.png", "lead outside"),
    ],
)
def test_paths_that_do_not_lead_to_images_are_refused(root, path, message):
    (root / "ada" / "n.txt").write_text("hello")
    refused(table(root, [*ROWS, (path, "Ada")], kind="parquet"), "found 1", message)


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", ".", "..", "a\tb", "a\nb", "x" * 101, " Ada", "../../etc", "\u200b"]
)
def test_names_in_a_table_that_are_refused(root, name):
    file = table(root, [*ROWS, ("ada/2.png", name)])
    refused(file, "found 1 contributor names that cannot be used", "printable")


@pytest.mark.parametrize("name", ["Ada Lovelace", "王小明", "O'Neil; DROP", "x" * 100, "a.b", "<b>"])
def test_names_in_a_table_that_are_allowed(root, name):
    assert name in [c.name for c in read(table(root, [*ROWS, ("ada/2.png", name)]))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path;contributor\nada/0.png;Ada\n",
        "file,contributor\nada/0.png,Ada\n",
        "path,contributor,joinned\nada/0.png,Ada,2026-01-01\n",
        "path,contributor,path\nada/0.png,Ada,x\n",
    ],
)
def test_other_columns_are_refused(root, text):
    (root / "m.csv").write_text(text)
    refused(
        root / "m.csv", "found the columns [", "expected path, contributor and, optionally, label, joined"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["found no rows"]),
        ("ada/0.png\nada/1.png,Ada,x\n", ["found 2 rows", "expected 2 cells", "line 2", "line 3"]),
        (",Ada\nada/0.png,\n", ["found 2 empty cells", "line 2: no path", "line 3: no contributor"]),
        ('ada/0.png,"Ada\n', ["cannot read the table", "data.path"]),
    ],
)
def test_incomplete_rows_are_refused(root, text, parts):
    (root / "m.csv").write_text("path,contributor\n" + text)
    refused(root / "m.csv", *parts)


@pytest.mark.parametrize("day", ["yesterday", "31.01.2026", "2026-02-30", "2026"])
def test_malformed_dates_are_refused(root, day):
    file = table(root, [(*row, day) for row in ROWS], ("path", "contributor", "joined"))
    refused(file, "found 5 malformed dates under 'joined'", f"line 2: {day!r}", "2026-01-31")


def test_damaged_tables_are_refused(root):
    (root / "m.csv").write_bytes(b"path,contributor\n\xff\xfe,Ada\n")
    refused(root / "m.csv", "cannot read the table", "data.path")
    (root / "m.parquet").write_bytes(table(root, ROWS, kind="parquet").read_bytes()[:-20])
    refused(root / "m.parquet", "cannot read the table", "data.path")
    pq.write_table(pa.table({"path": [["x"]], "contributor": ["Ada"]}), root / "m.parquet")
    refused(root / "m.parquet", "cannot read the table", "data.path")


def test_unusable_images_of_a_table_are_named(root):
    write(root / "ada" / "1.png", 1, (9, 9))
    (root / "ada" / "2.png").write_bytes(b"broken")
    parts = ["found 1 files that cannot be read", "found 1 images of another size", "ada/1.png: 9x9"]
    refused(table(root, ROWS), *parts, "ada/2.png")


def test_a_large_image_within_the_limit_is_cropped(tmp_path, monkeypatch):
    """Pillow has a limit of its own for parts of images, which must not stop it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("ada", "bob"):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(ord(name[0])).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    options = Folder(source="folder", path=str(tmp_path), resolution=16, resize="crop", min_images=1)
    assert [c.pixels.shape for c in load(options)] == [(1, 16, 16, 3)] * 2


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (",path,contributor", "index=False"),
        ("Unnamed: 0,path,contributor", "index=False"),
        ("path;contributor", "commas"),
    ],
)
def test_a_table_of_other_columns_says_what_to_change(tmp_path, columns, hint):
    (tmp_path / "t.csv").write_text(f"{columns}\n")
    with pytest.raises(DataError, match=f"found the columns.*{hint}"):
        load(Folder(source="folder", path=str(tmp_path / "t.csv"), resolution=16))
