"""Whether an image file is whole. Decoders make a picture of most damaged files: what is missing becomes
grey, black or what comes next.

A sound file must never be refused, so each check here but the last is one that no sound file fails:

- PNG: every chunk has a checksum, and there is a last chunk.
- JPEG: there is an end marker, and every coefficient is there at full precision. Bytes put before the end
  marker change nothing, because the decoder has all that it needs; in a file that was cut, and ended with an
  end marker afterwards, they are decoded instead of what is missing.
- WebP, and JPEG with an end marker, in which a run of zeros takes the place of data: the decoder gets out of
  step and ends before the data do, so the last bytes change nothing; in a sound file they do.
- GIF: after the first picture something follows other than zeros.

BMP has no checksum, and its zeros are black, so its check may be wrong, and says what to do then: zeros up to
the end of the file are taken for damage where they begin in the middle of a row, and the rest of the row, and
the row next to it, have hardly a black pixel.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

HOLE = bytes(32)
"""Zeros that few sound pictures have in their compressed data; some that are flat do."""
TAIL = 16
"""Bytes at the end of a picture's data that must matter where there is a HOLE."""
ZEROS = "zeros take the place of data"
IN_BMP = (
    "zeros take the place of pixels, from the middle of a row on; if the picture is black there, save it as "
    "PNG"
)
FILLING = bytes(np.random.default_rng(0).integers(0, 255, 512, np.uint8))
"""Bytes that no decoder takes for the end of the data; 255 is not among them, as it begins a marker."""


def damage(kind: str, data: bytes, image: Image.Image) -> str | None:
    """What is wrong with an image file, or None where it is whole.

    kind: a key of CHECKS. image: what the decoder has made of the data, not turned or converted yet.
    """
    return CHECKS[kind](data, image)


# PNG


def _png(data: bytes, _: Image.Image) -> str | None:
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        name = bytes(view[at + 4 : at + 8])
        if name == b"IEND":
            return None
        if end + 4 > len(data) or zlib.crc32(view[at + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            return f"the checksum of chunk {name!r} at byte {at} is wrong"
        at = end + 4
    return "it ends before its last chunk"


# JPEG

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""What ends the data of a scan; restart markers do not."""
RESTART = re.compile(rb"\xff([\xd0-\xd7])")
FRAMES = {0xC0 + i for i in range(16)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xCA}
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
"""Their encoders leave out zeros at the end, so that decoders read on past it."""
LARGE = 2**16
"""Pixels from which on a picture is decoded twice only if its last pixel is like that of a cut file."""


class Scan(NamedTuple):
    """A scan of a JPEG file. header: its parameters. start, end: where its data lie."""

    header: bytes
    start: int
    end: int


class Markers(NamedTuple):
    """What the markers of a JPEG file say. kind: the marker of the frame. ends: whether there is an end
    marker."""

    kind: int
    frame: bytes
    scans: list[Scan]
    ends: bool


def _jpeg(data: bytes, image: Image.Image) -> str | None:
    found = _markers(data)
    if not (found.ends and found.scans):
        return "it ends before its end marker"
    if not _complete(found):
        return "scans are missing, as in a file that was cut"
    last = found.scans[-1]
    if found.kind in ARITHMETIC:
        return None
    if _may_be_cut(found, image) and not _same(_refilled(data, last, 0), image):
        return "its data end before the picture does, as in a file that was cut"
    if len(found.scans) == 1 and HOLE in data[last.start : last.end] and not _is_flat(image):
        cut = data[: last.end - TAIL] + data[last.end :]
        if _same(_refilled(data, last, TAIL), image) and _same(cut, image):
            return ZEROS
    return None


def _markers(data: bytes) -> Markers:
    kind, frame, at = 0, b"", 2
    scans: list[Scan] = []
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":
            at += 1
        marker = int.from_bytes(data[at : at + 1], "big")
        at += 1
        if marker == 0xD9:
            return Markers(kind, frame, scans, ends=True)
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue  # nothing follows these
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at + 2 : at + length]
        at += max(length, 2)
        if marker in FRAMES and not frame:
            kind, frame = marker, segment
        elif marker == 0xDA:
            end = MARKER.search(data, at)
            if end is None:
                break
            scans.append(Scan(segment, at, len(data[at : end.start()].rstrip(b"\xff")) + at))
            at = end.start()
    return Markers(kind, frame, scans, ends=False)


def _complete(found: Markers) -> bool:
    """Whether the scans hold every coefficient of every component, to its last bit."""
    left = {component: set(range(64)) for component in found.frame[6::3]}
    for scan in found.scans:
        n = scan.header[0]
        first, last, bits = scan.header[1 + 2 * n : 4 + 2 * n]
        sent = range(64) if found.kind not in PROGRESSIVE else range(first, last + 1) if not bits & 15 else ()
        for component in scan.header[1 : 1 + 2 * n : 2]:
            left.get(component, set()).difference_update(sent)
    return not any(left.values())


def _may_be_cut(found: Markers, image: Image.Image) -> bool:
    """False where a large picture of a single scan does not end in the middle grey that stands for missing
    blocks, so that most need not be decoded twice."""
    single = len(found.scans) == 1 and found.kind not in PROGRESSIVE and image.mode != "CMYK"
    if not single or image.width * image.height < LARGE:
        return True
    corner = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    return abs(int(np.asarray(corner.convert("L")).item()) - 128) <= 2


def _refilled(data: bytes, scan: Scan, tail: int) -> bytes:
    """The file with FILLING in place of the last bytes of a scan: what follows if the decoder expects a
    restart marker, and if it does not."""
    restarts = RESTART.findall(data, scan.start, scan.end - tail)
    restart = 0xD0 + (restarts[-1][0] + 1) % 8 if restarts else 0xD0
    filling = FILLING + bytes([0xFF, restart]) + FILLING
    return data[: scan.end - tail] + filling + data[scan.end :]


# WebP


def _webp(data: bytes, image: Image.Image) -> str | None:
    start, end = _first_picture(data)
    if HOLE not in data[start:end] or _is_flat(image):
        return None
    other = data[: end - TAIL] + b"\xff" * TAIL + data[end:]
    return ZEROS if _same(other, image) else None


def _first_picture(data: bytes) -> tuple[int, int]:
    """Where the compressed pixels of the first picture lie, after 8 bytes of their name and length."""
    at = 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return at + 8, min(at + 8 + length, len(data))
        at += 24 if name == b"ANMF" else 8 + length + length % 2  # a frame begins with 16 bytes, then chunks
    return at, at


# GIF


def _gif(data: bytes, _: Image.Image) -> str | None:
    rest = data[_after_first_picture(data) :]
    return ZEROS if rest and not rest.strip(b"\0") else None


def _after_first_picture(data: bytes) -> int:
    at = 13 + _colours(data[10])
    while at < len(data) and data[at : at + 1] != b"\x2c":  # extensions; what is unknown is skipped
        at = _after_blocks(data, at + 2) if data[at : at + 1] == b"\x21" else at + 1
    if at + 9 >= len(data):
        return len(data)
    return _after_blocks(data, at + 11 + _colours(data[at + 9]))


def _colours(flags: int) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


# BMP


def _bmp(data: bytes, _: Image.Image) -> str | None:
    start, header, width = (int.from_bytes(data[i : i + 4], "little") for i in (10, 14, 18))
    bits, packing = int.from_bytes(data[28:30], "little"), int.from_bytes(data[30:34], "little")
    if header < 40 or packing not in (0, 3) or bits < 8:
        return None
    size = bits // 8
    row = (width * bits + 31) // 32 * 4
    height = abs(int.from_bytes(data[22:26], "little", signed=True))
    if data[start + row * height - len(HOLE) : start + row * height].strip(b"\0"):
        return None
    last, column = divmod(len(data[: start + row * height].rstrip(b"\0")) - 1 - start, row)
    black = height - 1 - last
    pixel = column // size + 1  # the first of its row that is black, as is all after it
    side = max(1, min(4, width // 32))
    if last < 1 or black < max(1, height // 8) or not side <= pixel <= width - side:
        return None
    before, here = (np.frombuffer(data, np.uint8, width * size, start + i * row) for i in (last - 1, last))
    coloured = [pixels.reshape(-1, size).any(axis=1).mean() for pixels in (before, here[: pixel * size])]
    return None if min(coloured) < 0.95 else IN_BMP


# Comparing pictures


def _same(data: bytes, image: Image.Image, rows: int = 256) -> bool:
    """Whether these data are decoded to the same picture: compared from below, where pictures that were cut
    differ, and a few rows at a time, because copies of large pictures are large."""
    try:
        with Image.open(io.BytesIO(data), formats=list(CHECKS)) as other:
            if (other.mode, other.size) != (image.mode, image.size):
                return False
            return all(image.crop(box).tobytes() == other.crop(box).tobytes() for box in _bands(image, rows))
    except Exception:  # noqa: BLE001 (decoders raise errors of any kind; here the data are not those of a file)
        return False


def _bands(image: Image.Image, rows: int) -> Iterator[tuple[int, int, int, int]]:
    for bottom in range(image.height, 0, -rows):
        yield 0, max(0, bottom - rows), image.width, bottom


def _is_flat(image: Image.Image) -> bool:
    """Whether a picture has one colour alone."""
    bands = image.getextrema()
    return all(low == high for low, high in (bands if isinstance(bands[0], tuple) else [bands]))


CHECKS: dict[str, Callable[[bytes, Image.Image], str | None]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
}
