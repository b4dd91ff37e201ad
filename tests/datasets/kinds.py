"""What people hand in as images, by kind, and what becomes of it. The tests of test_kinds.py try each kind,
and the table in docs/images.md lists them: `.venv/bin/python tests/datasets/kinds.py` writes it."""

import io
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, PngImagePlugin

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
BEGIN, END = "<!-- written by tests/datasets/kinds.py -->\n", "<!-- end of what is written -->\n"
READ, WARNED, REFUSED = "accepted", "accepted with a warning", "refused"


class Kind(NamedTuple):
    """make: adds an input of this kind to a folder in which Ada gave 0.png to 2.png, and Bob 10.png and
    11.png; returns the table to read in place of the folder, if there is one. says: words of the message.
    closed: only users without the rights of root meet it."""

    what: str
    becomes: str
    make: Callable[[Path], Path | None]
    says: tuple[str, ...] = ()
    closed: bool = False


# Pictures and files


def noise(seed: int = 0, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def drawing(side: int = 48) -> Image.Image:
    """Discs on white, no two alike; much of it is of one colour."""
    rng = np.random.default_rng(3)
    image = Image.new("RGB", (side, side), "white")
    for _ in range(9):
        x, y, r = (int(v) for v in rng.integers(side // 8, side // 4 * 3, 3))
        fill = tuple(int(v) for v in rng.integers(1, 255, 3))
        ImageDraw.Draw(image).ellipse((x, y, x + r // 3, y + r // 2), fill=fill, outline="navy")
    return image


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def put(root: Path, name: str, data: bytes | str = b"") -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)


def file(name: str, data: bytes | str | Callable[[], bytes]) -> Callable[[Path], None]:
    """Adds a file."""
    return lambda root: put(root, name, data() if callable(data) else data)


def folders(*names: str, seed: int = 100, images: int = 2) -> Callable[[Path], None]:
    """Adds folders with noise images."""

    def make(root: Path) -> None:
        for i, name in enumerate(names):
            for j in range(images):
                put(root, f"{name}/{j}.png", encoded(noise(seed + i * images + j)))

    return make


def together(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for maker in makers:
            maker(root)

    return make


def closed(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Takes away all permissions."""

    def shut(root: Path) -> None:
        make(root)
        (root / name).chmod(0)

    return shut


def halved(data: bytes) -> bytes:
    """The second half is zeros, as in a file for which a place was reserved and that was never completed."""
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def cut(data: bytes, part: float = 0.75, end: bytes = b"") -> bytes:
    return data[: int(len(data) * part)] + end


def only(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """As `make`, without Ada and Bob."""

    def instead(root: Path) -> None:
        for name in ("ada", "bob"):
            (root / name).rename(root.parent / f"{name} of before")
        make(root)

    return instead


# EXIF


def tiff(*entries: tuple[int, int, int, bytes], after: bytes = b"", order: str = ">") -> bytes:
    """A TIFF header and a directory of (tag, type, number of values, values or their offset). `after` follows
    at offset 10 + 12 times the number of entries + 4."""
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8)
    fields = b"".join(struct.pack(order + "HHI", tag, kind, n) + value for tag, kind, n, value in entries)
    return head + struct.pack(order + "H", len(entries)) + fields + bytes(4) + after


TURNED = (0x0112, 3, 1, struct.pack(">HH", 6, 0))
"""Orientation 6: the stored picture is to be turned clockwise."""
BAD_RESOLUTION = (0x011A, 5, 1, struct.pack(">I", 38))


def photo_with(exif: bytes, seed: int = 5) -> bytes:
    """A JPEG file with this EXIF block."""
    data = encoded(noise(seed), "JPEG", quality=95)
    segment = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def drawing_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with these chunks before its pixels."""
    data = encoded(noise(5))
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:33] + added + data[33:]


def long_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a word " * 400_000, zip=True)
    return encoded(noise(5), pnginfo=text)


UNREADABLE_EXIF = {
    "plain text": b"taken at noon",
    "no TIFF header": tiff(TURNED)[8:],
    "nothing after the header": b"MM\0*",
}
READABLE_EXIF = {
    "a resolution of -1/0": tiff(
        TURNED, (0x011A, 10, 1, struct.pack(">I", 38)), after=struct.pack(">ii", -1, 0)
    ),
    "a resolution of 72/0": tiff(TURNED, BAD_RESOLUTION, after=struct.pack(">II", 72, 0)),
    "a header twice": b"Exif\0\0" + tiff(TURNED),
    "the orientation as LONG": tiff((0x0112, 4, 1, struct.pack(">I", 6))),
    "the orientation as text": tiff((0x0112, 2, 2, b"6\0\0\0")),
    "the orientation as a byte": tiff((0x0112, 1, 1, b"\6\0\0\0")),
    "little endian": tiff((0x0112, 3, 1, struct.pack("<HH", 6, 0)), order="<"),
}
"""Blocks that say that the picture is to be turned clockwise."""


# Tables

ROWS = [
    ("ada/0.png", "Ada"),
    ("ada/1.png", "Ada"),
    ("ada/2.png", "Bob"),
    ("bob/10.png", "Bob"),
]


def table(*rows: tuple, make: Callable[[Path], None] | None = None) -> Callable[[Path], Path]:
    """A CSV table of ROWS and these."""

    def write(root: Path) -> Path:
        if make:
            make(root)
        lines = ["path,contributor", *(",".join(f'"{cell}"' for cell in row) for row in [*ROWS, *rows])]
        put(root, "table.csv", "\n".join(lines))
        return root / "table.csv"

    return write


def parquet(**columns: list | pa.Array) -> Callable[[Path], Path]:
    """A parquet table."""

    def write(root: Path) -> Path:
        pq.write_table(pa.table(columns), root / "table.parquet")
        return root / "table.parquet"

    return write


def quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def accents(form: str) -> str:
    return unicodedata.normalize(form, "bäume/wälder.png")


PATHS = [row[0] for row in ROWS]
LITTER = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "@Recycle", "@tmp", "lost+found")
MORE_LITTER = ("#snapshot", "~snapshot", ".snapshot", "__MACOSX", ".thumbnails", "FOUND.000", ".Trash-1000")
LITTER_FILES = (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", "0.png:Zone.Identifier")

KINDS = [
    # Folders
    Kind(
        "images at any depth below a contributor's folder",
        READ,
        file("ada/2026/May/x.png", encoded(noise(20))),
    ),
    Kind(
        f"folders that systems make, at any depth: {quoted(LITTER + MORE_LITTER)} and their like; passed "
        "over, in one line",
        READ,
        together(
            *(file(f"{name}/x.jpg", b"a thumbnail") for name in LITTER + MORE_LITTER),
            *(file(f"ada/deep/{name}/x.jpg", b"a thumbnail") for name in LITTER + MORE_LITTER),
            file("ada/deep/x.png", encoded(noise(20))),
        ),
        says=("passed over", "'@eaDir' in the folder itself, 'ada/deep'"),
    ),
    Kind(
        "such a folder that cannot be opened",
        READ,
        together(
            closed("lost+found", folders("lost+found")), closed("ada/@eaDir", folders("ada/@eaDir", seed=120))
        ),
        says=("passed over", "'lost+found' in the folder itself"),
        closed=True,
    ),
    Kind(
        f"files that systems make: {quoted(LITTER_FILES)} and their like; passed over",
        READ,
        together(*(file(f"{place}{name}", b"litter") for name in LITTER_FILES for place in ("ada/", ""))),
        says=("passed over", "'Thumbs.db' in the folder itself, 'ada'"),
    ),
    Kind(
        "a hidden folder with images beside those of the contributors",
        WARNED,
        folders(".cy"),
        says=("hidden folders are ignored, but '.cy' hold images",),
    ),
    Kind(
        "folders that are named like parts of a data set (`train`, `test`, `val` …)",
        WARNED,
        only(folders("Train", "test")),
        says=("'Train', 'test'", "named like parts of a data set", "set data.path to"),
    ),
    Kind(
        "folders that all hold folders of the same names, as `first/ada`, `first/bob`, `second/ada` …",
        WARNED,
        only(folders("first/ada", "first/bob", "second/ada", "second/bob")),
        says=("'first', 'second'", "each holds the same folders ('ada', 'bob')", "set data.path to"),
    ),
    Kind(
        "files beside the contributors' folders, images or not",
        REFUSED,
        together(file("README.md", "read me"), file("x.png", encoded(noise(5)))),
        says=("found 2 files or links", "'README.md'", "one per contributor"),
    ),
    Kind(
        "a folder of a contributor that cannot be opened",
        REFUSED,
        closed("ada/private", folders("ada/private")),
        says=("found 1 folders that cannot be read", "ada/private: Permission denied"),
        closed=True,
    ),
    Kind(
        "an image that cannot be opened",
        REFUSED,
        closed("ada/x.png", file("ada/x.png", encoded(noise(20)))),
        says=("found 1 files that cannot be read", "ada/x.png: Permission denied"),
        closed=True,
    ),
    # Names
    Kind(
        "names in any script, emoji, joiners (U+200C, U+200D) between letters or between emoji",
        READ,
        folders("王小明", "نام\u200cها", "ක්\u200dෂ", "👩🏽\u200d🚀", "O'Neil; DROP"),
    ),
    Kind(
        "names that differ in case, blanks, `_`, `-`, punctuation, width, joiners, or letters that look "
        "alike; each is a contributor",
        WARNED,
        folders(
            *(
                "Ada Lovelace",
                "ada lovelace",
                "Ada  Lovelace",
                "Ada_Lovelace",
                "ADA-LOVELACE",
                "Ada Love\u200clace",
            ),
            *("\u0410da Lovelace", "\uff21da Lovelace", "\u0391da Lovelace"),
        ),
        says=(
            "found 9 contributors whose names differ only in",
            r"('\u0410da Lovelace')",
            r"('\uff21da Lovelace')",
        ),
    ),
    Kind(
        "`nan`, `None`, `null`, `NA` and their like as a contributor, which tools write for a missing cell",
        WARNED,
        table(("bob/11.png", "nan"), ("bob/10.png", "NULL")),
        says=("'nan' reads like a missing value", "line 6", "'NULL' reads like a missing value", "line 7"),
    ),
    Kind(
        "names with control characters, `/`, `\\`, blanks or joiners at an end, or more than 100 characters",
        REFUSED,
        together(folders(" ada", "a\tb", "a\\b", "ada\u200d", "x" * 101)),
        says=("found 5 contributor names that cannot be used",),
    ),
    # Tables
    Kind(
        "a path whose accents are written otherwise than in the file's name (composed or not)",
        READ,
        lambda root: table(
            (accents("NFC"), "Bob"),
            (unicodedata.normalize("NFD", "ñ.png"), "Bob"),
            make=together(
                file(accents("NFD"), encoded(noise(20))),
                file(unicodedata.normalize("NFC", "ñ.png"), encoded(noise(21))),
            ),
        )(root),
    ),
    Kind(
        "numbers, categories and dates in a parquet table; whole numbers are written without a point",
        READ,
        parquet(path=PATHS, contributor=[1.0, 1.0, 2.0, 2.0]),
    ),
    Kind(
        "empty cells, and cells of blanks alone, under `path` or `contributor`",
        REFUSED,
        table(("bob/11.png", "  "), ("", "Bob")),
        says=("found 2 empty cells", "line 6: no contributor", "line 7: no path"),
    ),
    Kind(
        "missing numbers under `contributor` in a parquet table",
        REFUSED,
        parquet(path=PATHS, contributor=[1.0, 2.0, None, float("nan")]),
        says=("found 2 empty cells", "row 3: no contributor", "row 4: no contributor"),
    ),
    Kind(
        "a parquet column of lists, structures or bytes that are no text",
        REFUSED,
        parquet(path=PATHS, contributor=[["Ada"]] * 4),
        says=("column 'contributor' has the type list",),
    ),
    Kind(
        "paths with backslashes, in another case, or with blanks at an end; the message shows "
        "the name that exists",
        REFUSED,
        table(
            ("ada\\0.png", "Bob"),
            ("Ada/1.PNG", "Bob"),
            ("bob/11.png ", "Bob"),
            ("bob/ 12.png", "Bob"),
            make=file("bob/12.png ", encoded(noise(12))),
        ),
        says=(
            "found 4 paths",
            r"there is 'ada/0.png', found 'ada\\0.png'",
            "there is 'ada/1.png', found 'Ada/1.PNG'",
            "there is 'bob/11.png', found 'bob/11.png '",
            "there is 'bob/12.png ', found 'bob/ 12.png'",
        ),
    ),
    Kind(
        "paths that are absolute, contain `..`, or lead outside by a link",
        REFUSED,
        table(("../x.png", "Bob"), ("/etc/hostname", "Bob")),
        says=("found 2 paths", "absolute or contain '..'"),
    ),
    Kind(
        "a row that repeats an image of one contributor",
        REFUSED,
        table(("./ada/0.png", "Ada")),
        says=("found 2 rows", "repeat an image"),
    ),
    # Image files
    *(
        Kind(f"{kind}{what}", READ, file("ada/x", encoded(noise(20), kind, **options)))
        for kind, what, options in (
            ("PNG", "", {}),
            ("JPEG", ", also progressive, with restart markers, grey or CMYK", {"progressive": True}),
            ("WEBP", ", lossy and lossless", {}),
            ("BMP", "", {}),
            ("GIF", "", {}),
        )
    ),
    Kind(
        "files without a suffix or with another one (`.jfif`, `.jpe`, `x.jpg?w=300`, `x.png.1`, a JPEG named "
        "`x.png`): the content decides",
        READ,
        together(
            *(
                file(f"ada/{name}", encoded(noise(30 + i), "JPEG"))
                for i, name in enumerate(
                    ("x", "x.jfif", "x.jpe", "x.pjpeg", "x.jpg?w=300", "x.png.1", "y.png")
                )
            )
        ),
    ),
    Kind(
        "an EXIF block with numbers that cannot be (x/0), a header twice, or the orientation as another type",
        READ,
        together(
            *(
                file(f"ada/{name.replace('/', ' by ')}", photo_with(block, seed))
                for seed, (name, block) in enumerate(READABLE_EXIF.items(), 50)
            )
        ),
    ),
    Kind(
        "PNG with texts or a colour profile of more than a megabyte, up to 64 MiB each",
        READ,
        together(
            file("ada/text.png", long_text),
            file(
                "bob/profile.png", lambda: drawing_with((b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000))))
            ),
        ),
    ),
    Kind(
        "an EXIF block that cannot be read, or an orientation that there is not: the image is used as it "
        "is stored",
        WARNED,
        together(
            *(
                file(f"ada/{name}.jpg", photo_with(block, seed))
                for seed, (name, block) in enumerate(UNREADABLE_EXIF.items(), 50)
            ),
            file("bob/9.jpg", photo_with(tiff((0x0112, 3, 1, struct.pack(">HH", 9, 0))))),
            file("bob/x.png", drawing_with((b"eXIf", b"plain text"))),
        ),
        says=(
            "ada/plain text.jpg",
            "the EXIF block cannot be read",
            "bob/9.jpg: the EXIF orientation is 9, expected 1 to 8",
        ),
    ),
    Kind(
        "whatever else the decoder warns of; the warning names the file",
        WARNED,
        file("ada/x.jpg", photo_with(tiff(TURNED, BAD_RESOLUTION)[:-8])),
        says=("ada/x.jpg: the decoder warns: Corrupt EXIF data",),
    ),
    Kind(
        "TIFF, HEIC, AVIF, JPEG 2000, JPEG XL, SVG, PDF and others: the message says which it is",
        REFUSED,
        together(
            file("ada/a.png", encoded(noise(5), "TIFF")),
            file("ada/b.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
            file("ada/c.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"),
            file("ada/d.svg", "<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"),
            file("ada/e.jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
            file("ada/f.pdf", b"%PDF-1.7"),
        ),
        says=(
            "found 6 files that cannot be read as images",
            "ada/a.png: a TIFF image, or a camera's raw file: convert it to one of PNG, JPEG",
            "ada/b.heic: a HEIC image: convert",
            "ada/c.avif: an AVIF image: convert",
            "ada/d.svg: an SVG drawing: convert",
            "ada/e.jp2: a JPEG 2000 image",
        ),
    ),
    Kind(
        "other files in a contributor's folder: text, tables, checksums, web pages, pointers of Git LFS, "
        "empty files",
        REFUSED,
        together(
            file("ada/README.txt", "photographs of 2026"),
            file("ada/x.jpg", "<!DOCTYPE html><html>404</html>"),
            file("ada/y.png", "version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            file("ada/empty.png", b""),
            file("ada/z.png", bytes(1000)),
        ),
        says=(
            "found 5 files that cannot be read as images",
            "ada/README.txt: text, not an image",
            "ada/x.jpg: a web page",
            "git lfs pull",
            "ada/empty.png: an empty file",
            "ada/z.png: zeros alone",
        ),
    ),
    Kind(
        "more pixels than `data.max_pixels` (200 million)",
        REFUSED,
        file("ada/x.png", lambda: encoded(Image.new("1", (15_000, 14_000)))),
        says=("ada/x.png: 15000x14000 pixels", "data.max_pixels"),
    ),
    Kind(
        "fewer pixels than `data.resolution` on a side",
        REFUSED,
        file("ada/x.png", encoded(noise(5, (7, 20)))),
        says=("ada/x.png: 7x20 pixels", "no image is enlarged"),
    ),
    # Damage
    *(
        Kind(what, REFUSED, file("ada/x", data), says=("found 1 files that cannot be read", "ada/x: ", *says))
        for what, data, says in (
            (
                "PNG with a wrong checksum, such as one half of zeros",
                halved(encoded(drawing())),
                (),
            ),
            ("PNG that was cut", cut(encoded(drawing())), ()),
            ("WebP, lossy, one half of zeros", halved(encoded(drawing(), "WEBP")), ("zeros",)),
            (
                "WebP, lossless, one half of zeros",
                halved(encoded(noise(5, (24, 24)), "WEBP", lossless=True)),
                ("zeros",),
            ),
            ("GIF, one half of zeros", halved(encoded(drawing(), "GIF")), ()),
            ("BMP, one half of zeros", halved(encoded(noise(5, (48, 48)), "BMP")), ("zeros",)),
            ("JPEG, one half of zeros", halved(encoded(noise(5, (48, 48)), "JPEG")), ("end marker",)),
            (
                "JPEG that was cut, with an end marker put behind",
                cut(encoded(drawing(), "JPEG"), end=b"\xff\xd9"),
                ("data end before the picture",),
            ),
            (
                "progressive JPEG that was cut, with an end marker put behind",
                cut(encoded(drawing(), "JPEG", progressive=True), end=b"\xff\xd9"),
                ("scans are missing",),
            ),
            ("WebP, GIF or BMP that was cut", cut(encoded(noise(5, (48, 48)), "BMP")), ()),
        )
    ),
    # Pictures
    Kind(
        "pictures of one colour: blank ones, white drawings on transparency, animations that begin empty",
        WARNED,
        together(
            file("ada/white.png", encoded(Image.new("RGB", (9, 9), "white"))),
            file("bob/logo.png", encoded(Image.new("RGBA", (9, 9), (255, 255, 255, 80)))),
        ),
        says=("2 images show nothing but one colour", "ada/white.png, bob/logo.png"),
    ),
    Kind(
        "exact copies among the images of one contributor: all are trained on, and count once for "
        "`data.min_images`",
        WARNED,
        file("ada/copy.png", encoded(noise(0))),
        says=("1 images are exact copies", "ada/copy.png (as ada/0.png)"),
    ),
    Kind(
        "a contributor whose images are all the same picture",
        REFUSED,
        together(*(file(f"cy/{i}.png", encoded(noise(40), compress_level=i)) for i in range(4))),
        says=("found 1 different images for contributor 'cy', and 3 exact copies", "data.min_images"),
    ),
    Kind(
        "contributors who all gave the same single picture",
        REFUSED,
        only(together(*(file(f"{name}/x.png", encoded(noise(40))) for name in "abc"))),
        says=("found one picture, given by every contributor",),
    ),
]


def rows() -> str:
    """The table of the page."""
    lines = [f"| {kind.what} | {kind.becomes} |" for kind in KINDS]
    return "\n".join(["| what is handed in | is then |", "|---|---|", *lines, ""])


def written(page: str) -> str:
    """The page with the table between its marks."""
    return re.sub(f"(?<={BEGIN})[^\0]*(?={END})", lambda _: rows(), page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
