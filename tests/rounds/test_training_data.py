"""Training images and manifests in a store, whole and damaged."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save as arrays_to_bytes

from apportion.datasets.contribution import Contribution
from apportion.errors import Damaged, NotFound
from apportion.records import Manifest
from apportion.rounds.training_data import (
    manifest_of,
    outdated,
    read_contributions,
    read_manifest,
    training_images,
    write,
)
from apportion.store import Store, open_store
from apportion.store.layout import images_key, manifest_key


def contribution(name, seed, k=3, joined=None, label=None):
    """`k` noise images of 4 x 4 pixels, every other one with a flip that is allowed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (k, 4, 4, 3), dtype=np.uint8)
    return Contribution(
        name=name,
        pixels=pixels,
        flip=np.arange(k) % 2 == 0,
        titles=tuple(f"{name} {i}" for i in range(k)),
        joined=joined,
        label=(label,) * k if label else None,
    )


GIVEN = [
    contribution("Jäger", 1, joined="2024-05-01"),
    contribution("ada", 2, k=2),
    contribution("名前, Jo", 3, k=4, label="cat"),
]


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def objects(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


def test_round_trip(store):
    manifest = write(store, GIVEN)
    assert manifest == manifest_of(GIVEN) == read_manifest(store, manifest.id)
    assert [(c.name, c.samples, c.joined) for c in manifest.contributors] == [
        ("Jäger", 3, "2024-05-01"),
        ("ada", 2, None),
        ("名前, Jo", 4, None),
    ]
    images = {images_key(c.data_hash) for c in GIVEN}
    assert set(store.list()) == {manifest_key(manifest.id), *images}


def test_images_are_read_as_they_were_given(store):
    write(store, GIVEN)
    for given in GIVEN:
        images = training_images(store, [given.data_hash], 4)
        assert images.pixels.dtype == np.uint8
        assert images.flip.dtype == np.bool_
        assert np.array_equal(images.pixels.transpose(0, 2, 3, 1), given.pixels)
        assert np.array_equal(images.flip, given.flip)


def test_contributions_are_read_as_they_were_given(store):
    again = [*read_contributions(store, write(store, GIVEN))]
    for read, given in zip(again, GIVEN, strict=True):
        assert (read.name, read.titles, read.joined) == (given.name, given.titles, given.joined)
        assert read.data_hash == given.data_hash
        assert np.array_equal(read.pixels, given.pixels)


def conditioned(name, seed, label, k=3):
    """Images of a model that is conditioned on labels."""
    return replace(contribution(name, seed, k, label=label), conditioned=True)


def test_conditions_are_stored_with_the_images(store):
    """Images and conditions are in the same order, that of the data hashes; and labels are part of the
    hash."""
    given = [conditioned("ada", 1, "cat"), conditioned("bob", 2, "dog", k=2)]
    manifest = write(store, given)
    assert given[0].data_hash != conditioned("ada", 1, "dog").data_hash
    assert given[0].data_hash != contribution("ada", 1, label="cat").data_hash
    images = training_images(store, manifest.all_data, 4)
    for c in given:
        rows = [i for i, label in enumerate(images.condition) if label == c.label[0]]
        assert np.array_equal(images.pixels[rows].transpose(0, 2, 3, 1), c.pixels)
    assert sorted(images.condition) == ["cat"] * 3 + ["dog"] * 2


def test_labels_without_a_conditioned_model_are_not_conditions(store):
    write(store, GIVEN)
    assert training_images(store, [GIVEN[2].data_hash], 4).condition is None


def test_writing_again_changes_nothing(store):
    write(store, GIVEN)
    before = objects(store)
    assert write(store, GIVEN) == manifest_of(GIVEN)
    assert objects(store) == before


def test_labels_and_dates_first_written_stay_and_differences_are_reported(store):
    jaeger, ada, jo = GIVEN
    manifest = write(store, GIVEN)
    before = objects(store)
    assert outdated(store, GIVEN) == []
    renamed = replace(ada, titles=("x", "y"))  # another file name needs no warning
    assert outdated(store, [jaeger, renamed, jo]) == []
    changed = [replace(jaeger, joined="2025-01-01"), ada, replace(jo, label=("cat", "cat", "dog", "cat"))]
    assert manifest_of(changed).id == manifest.id
    write(store, changed)
    assert objects(store) == before
    assert outdated(store, changed) == ["Jäger", "名前, Jo"]
    assert read_manifest(store, manifest.id).contributors[0].joined == "2024-05-01"


def test_the_order_of_contributors_and_of_their_images_does_not_matter(tmp_path):
    reverse = [
        replace(c, pixels=c.pixels[::-1], flip=c.flip[::-1], titles=c.titles[::-1]) for c in reversed(GIVEN)
    ]
    stores = [open_store((tmp_path / name).as_uri()) for name in ("one", "other")]
    assert write(stores[0], GIVEN) == write(stores[1], reverse)
    assert objects(stores[0]) == objects(stores[1])


def test_a_join_adds_its_own_objects_only(store):
    old = write(store, GIVEN[:2])
    before = objects(store)
    new = write(store, GIVEN)
    assert new.id != old.id
    after = objects(store)
    assert {key: data for key, data in after.items() if key in before} == before
    assert set(after) - set(before) == {manifest_key(new.id), images_key(GIVEN[2].data_hash)}
    assert read_manifest(store, old.id) == old


def test_two_contributors_with_the_same_data_share_it_and_both_count(store):
    twins = [contribution("ada", 1), contribution("bob", 1), contribution("eve", 2)]
    manifest = write(store, twins)
    ada, bob, eve = manifest.contributors
    assert ada.data == bob.data != eve.data
    assert len([*store.list("images/")]) == 2
    assert read_manifest(store, manifest.id) == manifest

    def pixels(*mask):
        return training_images(store, manifest.data(np.array(mask)), 4).pixels

    alone = [pixels(True, False, False), pixels(False, True, False)]
    assert np.array_equal(*alone)
    assert np.array_equal(pixels(True, True, False), np.concatenate(alone))
    assert len(training_images(store, manifest.all_data, 4)) == 9


def test_images_do_not_depend_on_the_order_of_members(store):
    manifest = write(store, GIVEN)
    images = training_images(store, manifest.all_data, 4)
    reverse = training_images(store, manifest.all_data[::-1], 4)
    assert len(images) == 9
    assert np.array_equal(images.pixels, reverse.pixels)
    assert np.array_equal(images.flip, reverse.flip)


def test_the_empty_coalition_has_no_images(store):
    images = training_images(store, [], 16)
    assert images.pixels.shape == (0, 3, 16, 16)
    assert images.flip.shape == (0,)
    assert (images.pixels.dtype, images.flip.dtype) == (np.uint8, np.bool_)


def test_missing_objects_are_reported(store):
    with pytest.raises(NotFound):
        read_manifest(store, manifest_of(GIVEN).id)
    with pytest.raises(NotFound):
        training_images(store, [GIVEN[0].data_hash], 4)


def file_of(store: Store, key: str) -> Path:
    return Path(unquote(store.uri.removeprefix("file://"))) / key


DAMAGE = {
    "truncated": lambda data: data[:-1],
    "altered": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_altered_files_are_damaged_and_left_as_they_are(damage, store):
    manifest, data = write(store, GIVEN), GIVEN[0].data_hash
    for key, read in (
        (manifest_key(manifest.id), lambda: read_manifest(store, manifest.id)),
        (images_key(data), lambda: training_images(store, [data], 4)),
    ):
        file = file_of(store, key)
        file.write_bytes(damage(file.read_bytes()))
        before = file.read_bytes()
        with pytest.raises(Damaged, match=key):
            read()
        write(store, GIVEN)
        assert file.read_bytes() == before


def parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def rows_of(store: Store, manifest: Manifest) -> list[dict[str, object]]:
    table = io.BytesIO(store.get(manifest_key(manifest.id)))
    return pq.ParquetFile(table).read(use_threads=False).to_pylist()


def changed(rows, **columns):
    return parquet([{**row, **columns} for row in rows])


def renamed(rows):
    return parquet([{**row, "contributor": row["contributor"].replace("ada", "eve")} for row in rows])


def with_other_data_before(rows):
    first = [{**rows[0], "data": OTHER.data_hash, "sample": sample} for sample in OTHER.sample_hashes]
    return parquet(first + rows)


def without_column(rows, column):
    return parquet([{name: value for name, value in row.items() if name != column} for row in rows])


def without_footer(rows):
    data = parquet(rows)
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size] + bytes(size) + data[-8:]


OTHER = contribution("Jäger", 9)
WRONG_TABLES = {
    "a sample missing": lambda rows: parquet(rows[1:]),
    "a sample twice": lambda rows: parquet([*rows, rows[0]]),
    "a contributor missing": lambda rows: parquet([row for row in rows if row["contributor"] != "ada"]),
    "a contributor renamed": renamed,
    "samples moved": lambda rows: changed(rows, contributor="ada"),
    "other data": lambda rows: changed(rows, data=OTHER.data_hash),
    "other data before": with_other_data_before,
    "two dates of joining": lambda rows: parquet([{**rows[0], "joined": "1999-01-01"}, *rows[1:]]),
    "data not a hash": lambda rows: changed(rows, data="../secret"),
    "numbers": lambda rows: changed(rows, data=1),
    "samples unknown": lambda rows: changed(rows, sample=None),
    "a column missing": lambda rows: without_column(rows, "sample"),
    "no rows": lambda rows: parquet([]),
    "no table": lambda rows: b"PAR1 not really PAR1",
    "broken footer": without_footer,
    "half a table": lambda rows: parquet(rows)[:200],
    "nothing": lambda rows: b"",
}
"""Tables with a right checksum and wrong content."""


@pytest.mark.parametrize("make", WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_a_table_that_is_not_the_manifest_of_its_id_is_damaged(make, store, tmp_path):
    manifest = write(store, GIVEN)
    damaged, data = open_store((tmp_path / "damaged").as_uri()), make(rows_of(store, manifest))
    damaged.put_if_absent(manifest_key(manifest.id), data)
    expected = rf"(?s)found (no )?manifest .*{manifest.id}\.parquet.*it is left as it is"
    with pytest.raises(Damaged, match=expected):
        read_manifest(damaged, manifest.id)
    assert damaged.get(manifest_key(manifest.id)) == data


PIXELS, FLIP = np.zeros((1, 3, 4, 4), np.uint8), np.zeros(1, bool)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no safetensors",
        arrays_to_bytes({"pixels": PIXELS}),
        arrays_to_bytes({"pixels": PIXELS, "flip": FLIP}, metadata={"condition": "["}),
        arrays_to_bytes({"pixels": PIXELS, "flip": FLIP}, metadata={"condition": "3"}),
    ],
)
def test_an_object_without_images_is_damaged(data, store):
    store.put_if_absent(images_key(OTHER.data_hash), data)
    with pytest.raises(Damaged, match=rf"found no training images in .*{OTHER.data_hash}"):
        training_images(store, [OTHER.data_hash], 4)


def test_reading_a_manifest_starts_no_thread(store):
    """A thread of Arrow that is still starting when a short process ends aborts it once torch is loaded: one
    stage in five would fail."""
    manifest = write(store, GIVEN)
    script = f"""
import os
from apportion.rounds.training_data import read_manifest
from apportion.store import open_store
before = len(os.listdir("/proc/self/task"))
read_manifest(open_store({store.uri!r}), {manifest.id!r})
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
