"""Sound files of every kind are read, and damaged ones refused or read as the same picture."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import READABLE_EXIF, cut, drawing, encoded, halved, noise, photo_with
from PIL import Image, ImageDraw

from apportion.datasets.damage import CHECKS, damage
from apportion.datasets.decoding import UnfitError, decoded

END = b"\xff\xd9"


def smooth(side):
    """A picture like a photograph: no detail, no flat part."""
    small = np.random.default_rng(1).normal(size=(6, 6, 3)).cumsum(0).cumsum(1)
    grey = np.uint8(np.interp(small, (small.min(), small.max()), (0, 255)))
    return Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)


def flat(side, colour):
    return Image.new("RGB", (side, side), colour)


def half(side, colour, top):
    """One half of one colour, as sky or a page; grey is what decoders make of missing blocks."""
    image = smooth(side)
    image.paste(colour, (0, 0, side, side // 2) if top else (0, side // 2, side, side))
    return image


def moon(side):
    image = flat(side, "black")
    ImageDraw.Draw(image).ellipse((side // 4, side // 2, 3 * side // 4, side - 2), fill="white")
    return image


def slope(side):
    """A bright plain with a horizon that falls by two pixels."""
    image = flat(side, "black")
    ImageDraw.Draw(image).polygon(
        [(0, side // 2), (side, side // 2 - 2), (side, side), (0, side)], fill="white"
    )
    return image


PICTURES = {
    "noise": lambda side: Image.fromarray(noise(4, (side, side))),
    "drawing": drawing,
    "smooth": smooth,
    "white": lambda side: flat(side, "white"),
    "grey": lambda side: flat(side, (128, 128, 128)),
    "black": lambda side: flat(side, "black"),
    "grey below": lambda side: half(side, (128, 128, 128), top=False),
    "white below": lambda side: half(side, "white", top=False),
    "black above": lambda side: half(side, "black", top=True),
    "moon": moon,
    "slope": slope,
}
ENCODINGS = [
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"quality": 5, "method": 6}),
    ("WEBP", {"lossless": True}),
    ("JPEG", {}),
    ("JPEG", {"optimize": True, "quality": 5}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"progressive": True, "quality": 3}),
    ("JPEG", {"restart_marker_blocks": 3}),
    ("JPEG", {"restart_marker_rows": 1, "progressive": True}),
    ("JPEG", {"subsampling": 0, "quality": 100}),
    ("JPEG", {"keep_rgb": True}),
]


def wrong(kind, data):
    image = Image.open(io.BytesIO(data), formats=[kind])
    image.load()
    return damage(kind, data, image)


@pytest.mark.parametrize(("kind", "options"), ENCODINGS, ids=str)
def test_sound_files_are_whole(kind, options):
    assert set(CHECKS) == {kind for kind, _ in ENCODINGS}
    for name, picture in PICTURES.items():
        for side in (16, 17, 70, 300):
            assert wrong(kind, encoded(picture(side), kind, **options)) is None, (name, side)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_sound_grey_and_cmyk_files_are_whole(mode, options):
    for picture in PICTURES.values():
        assert wrong("JPEG", encoded(picture(70).convert(mode), "JPEG", **options)) is None


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_sound_files_of_other_modes_are_whole(mode, kind):
    for picture in PICTURES.values():
        assert wrong(kind, encoded(picture(33).convert(mode), kind)) is None


def test_sound_animations_are_whole():
    frames = [Image.fromarray(noise(i, (20, 20))) for i in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        assert wrong(kind, encoded(frames[0], kind, save_all=True, append_images=frames[1:])) is None
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert wrong("JPEG", several) is None  # a JPEG file with others behind it, as some phones write


@pytest.mark.parametrize(("kind", "options"), [e for e in ENCODINGS if e[0] == "JPEG"], ids=str)
@pytest.mark.parametrize("name", ["noise", "drawing", "smooth", "grey below"])
def test_a_jpeg_that_was_cut_and_ended_is_refused(kind, options, name, tmp_path):
    """Wherever it was cut, unless it is the same picture still."""
    for side in (16, 70, 300):
        data = encoded(PICTURES[name](side), kind, **options)
        for part in (0.3, 0.5, 0.7, 0.9):
            refused_or_same(tmp_path / "x", data, cut(data, part, END))


def refused_or_same(file, data, changed):
    expected = pixels(file, data)
    try:
        found = pixels(file, changed)
    except UnfitError:
        return
    assert np.array_equal(found, expected)


def pixels(file, data):
    file.write_bytes(data)
    return np.asarray(decoded(file, 10**6)[0].convert("RGBA"))


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("PNG", {}, ["noise", "drawing", "smooth"]),
        ("GIF", {}, ["noise", "drawing", "smooth"]),
        ("BMP", {}, ["noise", "white", "grey below"]),
        ("WEBP", {}, ["noise", "drawing", "smooth"]),
        ("WEBP", {"lossless": True}, ["noise", "smooth"]),
        ("JPEG", {}, ["noise", "drawing", "smooth", "white", "grey"]),
        ("JPEG", {"progressive": True}, ["noise", "drawing", "smooth", "white"]),
    ],
    ids=str,
)
def test_a_file_that_is_zeros_from_its_middle_on_is_refused(kind, options, names, tmp_path):
    for name in names:
        for side in (33, 64, 131):
            (tmp_path / "x").write_bytes(halved(encoded(PICTURES[name](side), kind, **options)))
            with pytest.raises(UnfitError):
                decoded(tmp_path / "x", 10**6)


def test_zeros_before_the_end_marker_of_a_jpeg(tmp_path):
    data = encoded(noise(4, (90, 90)), "JPEG")
    middle = len(data) // 2
    (tmp_path / "x").write_bytes(data[:middle] + bytes(len(data) - middle - 2) + END)
    with pytest.raises(UnfitError, match="damaged"):
        decoded(tmp_path / "x", 10**6)


SMALL = [
    (kind, encoded(drawing(24).convert(mode), kind, **options))
    for kind, mode, options in (
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("WEBP", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {"progressive": True}),
    )
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damage") / "x"


@given(st.sampled_from(SMALL), st.floats(0, 1, exclude_max=True), st.binary(max_size=3))
@settings(max_examples=150)
def test_every_cut_is_refused_or_shows_the_same_picture(place, small, part, after):
    kind, data = small
    refused_or_same(place, data, cut(data, part))
    if kind == "PNG":
        refused_or_same(place, data, cut(data, part, after))


@given(st.sampled_from(SMALL), st.floats(0, 1), st.integers(1, 2000), st.integers(0, 255))
@settings(max_examples=150)
def test_no_damage_raises_another_error(place, small, part, length, value):
    """Bytes overwritten anywhere, and at the end; those of a PNG are noticed by its checksums."""
    kind, data = small
    start = int(part * len(data))
    damaged = data[:start] + bytes([value]) * min(length, len(data) - start) + data[start + length :]
    if kind == "PNG":
        refused_or_same(place, data, damaged)
        return
    place.write_bytes(damaged)
    try:
        image, _ = decoded(place, 10**6)
    except UnfitError:
        return
    assert np.asarray(image.convert("RGB")).ndim == 3


@given(st.binary(max_size=200), st.sampled_from([b"", *(data[:12] for _, data in SMALL)]))
def test_no_file_raises_another_error(place, data, start):
    place.write_bytes(start + data)
    with contextlib.suppress(UnfitError):
        decoded(place, 10**4)


@pytest.mark.parametrize("name", READABLE_EXIF)
def test_orientations_that_can_be_read_are_applied(name, tmp_path):
    plain = pixels(tmp_path / "x", encoded(noise(5), "JPEG", quality=95))
    turned = pixels(tmp_path / "x", photo_with(READABLE_EXIF[name]))
    assert np.array_equal(turned, np.rot90(plain, -1))


@given(st.binary(max_size=80))
def test_no_exif_block_keeps_a_photo_from_being_read(place, block):
    """Whatever is in it, the stored picture is shown, or one of its turned and mirrored forms."""
    plain = pixels(place, encoded(noise(5), "JPEG", quality=95))
    forms = [np.rot90(side, k) for side in (plain, plain[:, ::-1]) for k in range(4)]
    found = pixels(place, photo_with(block))
    assert any(np.array_equal(found, form) for form in forms)


@pytest.mark.parametrize("options", [{"method": 0}, {"save_all": True}, {"method": 6}])
def test_a_sound_lossless_webp_of_flat_areas_is_whole(options):
    """Its encoder writes a flat area as a run of zeros where it is told to be quick."""
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[:40] = np.random.default_rng(0).integers(0, 256, (40, 64, 3))
    image, file = Image.fromarray(pixels), io.BytesIO()
    more = {"append_images": [image.rotate(90)]} if "save_all" in options else {}
    image.save(file, "WEBP", lossless=True, **options, **more)
    with Image.open(io.BytesIO(file.getvalue())) as decoded_again:
        assert damage("WEBP", file.getvalue(), decoded_again) is None
