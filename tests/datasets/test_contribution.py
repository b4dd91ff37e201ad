"""Content hashes compared with hashlib, and the order that follows from them."""

import hashlib
import json

import numpy as np
import pytest

from apportion.config.data import OpenMoji
from apportion.datasets import duplicates, load
from apportion.datasets.contribution import Contribution
from apportion.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
FLIP = np.array([True, False, True, False, True])
TITLES = tuple("abcde")


def contribution(name="ada", pixels=PIXELS, flip=FLIP, titles=TITLES, **rest):
    return Contribution(name, pixels, flip, titles, **rest)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:32]


def test_hashes_are_sha256_of_shape_pixels_and_flip():
    samples = zip(PIXELS, FLIP, strict=True)
    expected = sorted(digest(b"(4, 4, 3)" + p.tobytes() + (b"\1" if f else b"\0")) for p, f in samples)
    c = contribution()
    assert list(c.sample_hashes) == expected
    assert c.data_hash == digest(json.dumps(expected, separators=(",", ":")).encode())
    assert sorted(c.pixel_hashes) == sorted(digest(b"(4, 4, 3)" + p.tobytes()) for p in PIXELS)


def test_order_of_files_never_matters():
    order = [3, 0, 4, 1, 2]
    labels = ("u", "v", None, "x", "y")
    one = contribution(label=labels)
    other = contribution(
        pixels=PIXELS[order],
        flip=FLIP[order],
        titles=tuple(TITLES[i] for i in order),
        label=tuple(labels[i] for i in order),
    )
    assert one.data_hash == other.data_hash
    assert (one.sample_hashes, one.titles, one.label) == (other.sample_hashes, other.titles, other.label)
    assert np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(one.flip, other.flip)


def test_pixels_flip_title_and_label_of_an_image_stay_together():
    c = contribution(label=tuple("ABCDE"))
    for i, title in enumerate(c.titles):
        source = TITLES.index(title)
        assert np.array_equal(c.pixels[i], PIXELS[source])
        assert (c.flip[i], c.label[i]) == (FLIP[source], title.upper())
        assert c.pixel_hashes[i] == digest(b"(4, 4, 3)" + PIXELS[source].tobytes())


def test_equal_images_are_ordered_by_title():
    same = np.repeat(PIXELS[:1], 3, axis=0)
    assert contribution(pixels=same, flip=FLIP[[0, 0, 0]], titles=("c", "a", "b")).titles == ("a", "b", "c")


def test_another_pixel_flip_or_number_of_images_is_other_data():
    changed = PIXELS.copy()
    changed[2, 1, 1, 0] ^= 1
    flipped = FLIP ^ (np.arange(5) == 3)
    repeated = [0, 1, 2, 3, 4, 4]
    variants = [
        {},
        {"pixels": changed},
        {"flip": flipped},
        {"pixels": PIXELS[:4], "flip": FLIP[:4], "titles": TITLES[:4]},
        {"pixels": PIXELS[repeated], "flip": FLIP[repeated], "titles": (*TITLES, "f")},
    ]
    assert len({contribution(**variant).data_hash for variant in variants}) == len(variants)


def test_shape_is_part_of_the_hash():
    """Four images of 2x2 pixels have the same bytes as one of 4x4."""
    small = contribution(pixels=PIXELS[:1].reshape(4, 2, 2, 3), flip=FLIP[:4], titles=TITLES[:4])
    assert not set(small.pixel_hashes) & set(contribution().pixel_hashes)


def test_names_titles_labels_and_dates_are_not_part_of_the_data():
    other = contribution("bob", titles=tuple("vwxyz"), joined="2026-01-31", label=tuple("lmnop"))
    assert other.data_hash == contribution().data_hash


LABELS = ("cat", "dog", "cat", "owl", "dog")


def test_labels_are_part_of_the_data_where_models_are_conditioned_on_them():
    changed = (*LABELS[:4], "cat")
    hashes = {contribution(label=label, conditioned=True).data_hash for label in (LABELS, changed)}
    assert len(hashes) == 2
    plain = {contribution(label=label).data_hash for label in (LABELS, changed, None)}
    assert plain == {contribution().data_hash}
    assert not plain & hashes


def test_conditioned_hashes_are_sha256_of_the_sample_and_its_label():
    c = contribution(label=LABELS, conditioned=True)
    expected = [
        digest(b"(4, 4, 3)" + p.tobytes() + (b"\1" if f else b"\0") + b"condition:" + label.encode())
        for p, f, label in zip(PIXELS, FLIP, LABELS, strict=True)
    ]
    assert list(c.sample_hashes) == sorted(expected)
    assert sorted(c.pixel_hashes) == sorted(contribution().pixel_hashes)


def test_the_order_of_conditioned_images_never_matters():
    order = [3, 0, 4, 1, 2]
    other = contribution(
        pixels=PIXELS[order],
        flip=FLIP[order],
        titles=tuple(TITLES[i] for i in order),
        label=tuple(LABELS[i] for i in order),
        conditioned=True,
    )
    one = contribution(label=LABELS, conditioned=True)
    assert (one.data_hash, one.titles, one.label) == (other.data_hash, other.titles, other.label)
    assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("label", [None, (*LABELS[:4], None), (*LABELS[:4], "")])
def test_an_image_without_a_label_is_refused_where_models_are_conditioned_on_labels(label):
    message = r"images of contributor 'ada' without a label, .*\(model\.family, data\.path\)"
    with pytest.raises(DataError, match=message):
        contribution(label=label, conditioned=True)
    assert contribution(label=label).data_hash == contribution().data_hash


def test_contributions_are_conditioned_where_the_family_is():
    data = OpenMoji(source="openmoji", contributors=["Liz Bravo", "Fanny Jung"])
    plain, conditioned = load(data), load(data, "label")
    assert [c.name for c in plain] == [c.name for c in conditioned]
    for one, other in zip(plain, conditioned, strict=True):
        assert not one.conditioned
        assert other.conditioned
        assert one.data_hash != other.data_hash
        assert sorted(one.pixel_hashes) == sorted(other.pixel_hashes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": PIXELS[:4]},
        {"pixels": PIXELS.astype(np.float32)},
        {"pixels": PIXELS[:, :3]},
        {"pixels": PIXELS[..., :1]},
        {"pixels": PIXELS[0]},
        {"flip": FLIP[:4]},
        {"flip": FLIP.astype(np.uint8)},
        {"label": ("u",)},
        {"pixels": PIXELS[:0], "flip": FLIP[:0], "titles": ()},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(DataError, match="for contributor 'ada', expected uint8"):
        contribution(**wrong)


def test_duplicates_name_both_contributors_and_titles_whatever_the_flip():
    pixels = np.stack([PIXELS[1], 255 - PIXELS[2]])
    bob = contribution("bob", pixels, np.array([True, True]), ("mine", "other"))
    (warning,) = duplicates([contribution(), bob])
    assert "'ada' (b) and 'bob' (mine)" in warning


def test_duplicates_of_one_contributor_give_no_warning():
    assert duplicates([contribution(pixels=PIXELS[[0, 0, 1, 2, 3]]), contribution("bob", 255 - PIXELS)]) == []


def test_many_duplicates_of_the_same_contributors_are_one_warning():
    many = np.random.default_rng(1).integers(0, 256, (25, 4, 4, 3), dtype=np.uint8)
    titles = tuple(f"{i:02d}" for i in range(25))
    ada, bob = (contribution(name, many, np.ones(25, bool), titles) for name in ("ada", "bob"))
    (warning,) = duplicates([ada, bob])
    assert warning.startswith("the same 25 images were given by 'ada' (00) and 'bob' (00), and so on")


def test_of_many_groups_those_that_share_most_are_shown_first_and_all_are_counted():
    images = np.random.default_rng(1).integers(0, 256, (13, 4, 4, 3), dtype=np.uint8)
    ada = contribution("ada", images, np.ones(13, bool), tuple(map(str, range(13))))
    others = [
        contribution(f"p{i:02}", images[own], np.ones(len(own), bool), tuple(map(str, own)))
        for i, own in enumerate([[i] for i in range(11)] + [[11, 12]])
    ]
    *named, last = duplicates([ada, *others])
    assert "the same 2 images were given by 'ada' (11) and 'p11' (11)" in named[0]
    assert len(named) == 10
    assert last.startswith("13 images in all were given by more than one contributor, of 12 groups")


def test_an_image_of_many_contributors_is_one_warning():
    (warning,) = duplicates([contribution(name, PIXELS[:1], FLIP[:1], ("x",)) for name in "abcdef"])
    assert "'d' (x) and 2 others" in warning
