"""From a file to a picture: the content decides what it is, it must be whole, and it is turned upright."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from apportion.datasets.damage import damage
from apportion.errors import DataError

SIGNATURES = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "WEBP": b"RIFF",
    "BMP": b"BM",
    "GIF": b"GIF8",
}
"""The decoders that Pillow may use, and how their files begin."""
OTHERS = (
    (b"", "an empty file: copy it again"),
    (b"II*\0", "a TIFF image, or a camera's raw file"),
    (b"MM\0*", "a TIFF image, or a camera's raw file"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"v/1\1", "an OpenEXR image"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\3\4", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite", "a database"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
)
"""How other files begin, and what to say of them. Where nothing else is said, they are to be converted."""
BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"hevc": "a HEIC image",
    b"mif1": "a HEIF image",
    b"msf1": "a HEIF image",
    b"crx ": "a camera's raw file",
}
"""Kinds of ISO base media files, by their brand."""
TEXT_LIMITS = {"MAX_TEXT_CHUNK": 2**26, "MAX_TEXT_MEMORY": 2**28}
"""Bytes of one text or colour profile of a PNG file, unpacked, and of all. Pillow's own limits are a MiB and
64 MiB, and there are sound files beyond the first."""
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture with this EXIF orientation upright."""


class UnfitError(DataError):
    """One image that cannot be used; `kind` is a key of `folder.UNFIT`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def decoded(file: Path, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """The picture in a file, upright, of any mode, the first frame of an animation; and what is to be said of
    the file, such as warnings of the decoder. Raises UnfitError where there is none, it is not whole, or it
    has more than `max_pixels` pixels."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnfitError("unreadable", f"{error.strerror}: change its permissions") from error
    kind = _format(data)
    try:
        with warnings.catch_warnings(record=True) as caught, limits():
            warnings.simplefilter("always")
            image = Image.open(io.BytesIO(data), formats=[kind])
            _refuse_large(image, max_pixels)
            image.load()
            if wrong := damage(kind, data, image):
                raise UnfitError("unreadable", f"damaged: {wrong}")
            picture, remarks = _upright(image)
        remarks += [f"the decoder warns: {str(warning.message).strip()}" for warning in caught]
        return picture, list(dict.fromkeys(remarks))
    except UnfitError:
        raise
    except Exception as error:  # the decoders of Pillow raise errors of any kind for damaged files
        raise UnfitError("unreadable", f"{type(error).__name__}: {error}") from error


def _format(data: bytes) -> str:
    """The name of a file's format. Raises UnfitError that says what else it is."""
    for name, signature in SIGNATURES.items():
        if data.startswith(signature) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    what = _other(data)
    advice = "" if ":" in what else f": convert it to one of {', '.join(SIGNATURES)}, or remove it"
    raise UnfitError("unreadable", f"{what}{advice}")


def _other(data: bytes) -> str:
    if not data.strip(b"\0"):
        return "zeros alone, as of a file that was never written: copy it again" if data else OTHERS[0][1]
    for signature, what in OTHERS[1:]:
        if data.startswith(signature):
            return what
    if data[4:8] == b"ftyp":
        brands = [data[i : i + 4] for i in (8, *range(16, min(len(data), 64), 4))]
        return next((what for brand, what in BRANDS.items() if brand in brands), "a video")
    head = data[:2048].lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if b"<html" in head or b"<!doctype html" in head:
        return "a web page, as servers send in place of an image: download it again"
    is_text = not set(data[:2048]) & {*range(9), *range(14, 27), *range(28, 32), 127}
    return "text, not an image: remove it" if is_text else "no image of a known format"


@contextmanager
def limits() -> Iterator[None]:
    """Pillow's limit for pixels is off, as _refuse_large has its own, and its limits for text are higher."""
    places: list[tuple[Any, str, Any]] = [
        (PngImagePlugin, name, value) for name, value in TEXT_LIMITS.items()
    ]
    places.append((Image, "MAX_IMAGE_PIXELS", None))
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)


def _refuse_large(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise UnfitError("large", f"{image.width}x{image.height} pixels, which is {pixels}")


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture, turned as its EXIF or XMP orientation says, and what is wrong with that. The block is read
    and never written again, which fails for many that can be read."""
    try:
        if "exif" in image.info:
            Image.Exif().load(image.info["exif"])  # Pillow hides this error for JPEG files
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # noqa: BLE001 (as of damaged files)
        return image, [f"the EXIF block cannot be read, so the image is used as it is stored: {error}"]
    number = _number(orientation)
    if number in ORIENTATIONS:
        return image.transpose(ORIENTATIONS[number]), []
    if number in (0, 1):
        return image, []
    return image, [
        f"the EXIF orientation is {orientation!r:.40}, expected 1 to 8; the image is used as stored"
    ]


def _number(orientation: Any) -> int:
    """An orientation, which may be written with another type than the standard's; 1 where there is none, -1
    where it is no number."""
    first = orientation[0] if isinstance(orientation, tuple) and orientation else orientation
    text = first.decode("latin-1") if isinstance(first, bytes) else first
    try:
        return 1 if text is None else ord(text) if text in tuple(map(chr, ORIENTATIONS)) else int(text)
    except (TypeError, ValueError, ArithmeticError):
        return -1
