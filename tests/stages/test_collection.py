"""Training images and manifests in a store, whole and spoilt."""

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
from apportion.stages.collection import (
    images_key,
    manifest_key,
    manifest_of,
    outdated,
    read_contributions,
    read_manifest,
    training_images,
    write,
)
from apportion.store import Store, open_store


def contribution(name: str, seed: int, k: int = 3, joined: str | None = None, label: str | None = None) -> Contribution:
    draw = np.random.default_rng(seed)
    return Contribution(
        name=name, pixels=draw.integers(0, 256, (k, 4, 4, 3), dtype=np.uint8), flip=np.arange(k) % 2 == 0,
        titles=tuple(f"{name} {i}" for i in range(k)), joined=joined, label=(label,) * k if label else None,
    )  # fmt: skip


GIVEN = [contribution("Jäger", 1, joined="2024-05-01"), contribution("ada", 2, k=2), contribution("名前, Jo", 3, k=4, label="cat")]


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def files(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


def test_round_trip(store):
    manifest = write(store, GIVEN)
    assert manifest == manifest_of(GIVEN) == read_manifest(store, manifest.id)
    assert [(c.name, c.samples, c.joined) for c in manifest.contributors] == [
        ("Jäger", 3, "2024-05-01"),
        ("ada", 2, None),
        ("名前, Jo", 4, None),
    ]
    assert set(store.list()) == {manifest_key(manifest.id), *(images_key(c.data_hash) for c in GIVEN)}


def test_images_come_back_as_they_were_given(store):
    write(store, GIVEN)
    for given in GIVEN:
        images = training_images(store, [given.data_hash], 4)
        assert images.pixels.dtype == np.uint8
        assert images.flip.dtype == np.bool_
        assert np.array_equal(images.pixels.transpose(0, 2, 3, 1), given.pixels)
        assert np.array_equal(images.flip, given.flip)


def test_contributions_come_back_as_they_were_given(store):
    found = list(read_contributions(store, write(store, GIVEN)))
    assert [(c.name, c.titles, c.joined, c.data_hash) for c in found] == [(c.name, c.titles, c.joined, c.data_hash) for c in GIVEN]
    assert all(np.array_equal(c.pixels, given.pixels) for c, given in zip(found, GIVEN, strict=True))


def test_writing_again_changes_nothing(store):
    write(store, GIVEN)
    before = files(store)
    assert write(store, GIVEN) == manifest_of(GIVEN)
    assert files(store) == before


def test_labels_and_dates_are_those_first_written_and_what_differs_is_told(store):
    jaeger, ada, jo = GIVEN
    manifest = write(store, GIVEN)
    before = files(store)
    assert outdated(store, GIVEN) == []
    renamed = replace(ada, titles=("x", "y"))  # a file's name is not worth a warning
    assert outdated(store, [jaeger, renamed, jo]) == []
    changed = [replace(jaeger, joined="2025-01-01"), ada, replace(jo, label=("cat", "cat", "dog", "cat"))]
    assert manifest_of(changed).id == manifest.id
    write(store, changed)
    assert files(store) == before
    assert outdated(store, changed) == ["Jäger", "名前, Jo"]
    assert read_manifest(store, manifest.id).contributors[0].joined == "2024-05-01"


def test_the_order_of_contributors_and_of_their_images_does_not_matter(tmp_path):
    turned = [
        Contribution(c.name, c.pixels[::-1], c.flip[::-1], c.titles[::-1], c.joined, c.label and c.label[::-1]) for c in reversed(GIVEN)
    ]
    stores = [open_store((tmp_path / name).as_uri()) for name in ("one", "other")]
    assert write(stores[0], GIVEN) == write(stores[1], turned)
    assert files(stores[0]) == files(stores[1])


def test_a_join_adds_its_own_objects_only(store):
    old = write(store, GIVEN[:2])
    before = files(store)
    new = write(store, GIVEN)
    assert new.id != old.id
    assert {key: data for key, data in files(store).items() if key in before} == before
    assert set(files(store)) - set(before) == {manifest_key(new.id), images_key(GIVEN[2].data_hash)}
    assert read_manifest(store, old.id) == old


def test_two_contributors_with_the_same_data_share_it_and_both_count(store):
    twins = [contribution("ada", 1), contribution("bob", 1), contribution("eve", 2)]
    manifest = write(store, twins)
    ada, bob, eve = manifest.contributors
    assert ada.data == bob.data != eve.data
    assert len(list(store.list("images/"))) == 2
    assert read_manifest(store, manifest.id) == manifest
    alone = [training_images(store, manifest.data(np.array(mask)), 4).pixels for mask in ([True, False, False], [False, True, False])]
    assert np.array_equal(*alone)
    both = training_images(store, manifest.data(np.array([True, True, False])), 4)
    assert np.array_equal(both.pixels, np.concatenate(alone))
    assert len(training_images(store, manifest.everybody, 4)) == 9


def test_a_coalitions_images_do_not_hang_on_the_order_of_its_members(store):
    manifest = write(store, GIVEN)
    images = training_images(store, manifest.everybody, 4)
    turned = training_images(store, manifest.everybody[::-1], 4)
    assert len(images) == 9
    assert np.array_equal(images.pixels, turned.pixels)
    assert np.array_equal(images.flip, turned.flip)


def test_nobodys_images_are_none(store):
    images = training_images(store, [], 16)
    assert images.pixels.shape == (0, 3, 16, 16)
    assert images.flip.shape == (0,)
    assert (images.pixels.dtype, images.flip.dtype) == (np.uint8, np.bool_)


def test_what_is_not_there(store):
    with pytest.raises(NotFound):
        read_manifest(store, manifest_of(GIVEN).id)
    with pytest.raises(NotFound):
        training_images(store, [GIVEN[0].data_hash], 4)


def path(store: Store, key: str) -> Path:
    return Path(unquote(store.uri.removeprefix("file://"))) / key


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], lambda data: b""])
def test_altered_files_are_damaged_and_left_as_they_are(spoil, store):
    manifest = write(store, GIVEN)
    for key, read in [
        (manifest_key(manifest.id), lambda: read_manifest(store, manifest.id)),
        (images_key(GIVEN[0].data_hash), lambda: training_images(store, [GIVEN[0].data_hash], 4)),
    ]:
        file = path(store, key)
        file.write_bytes(spoil(file.read_bytes()))
        before = file.read_bytes()
        with pytest.raises(Damaged, match=key):
            read()
        write(store, GIVEN)
        assert file.read_bytes() == before


def table(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def rows(store: Store, manifest: Manifest) -> list[dict[str, object]]:
    return pq.ParquetFile(io.BytesIO(store.get(manifest_key(manifest.id)))).read(use_threads=False).to_pylist()


def without_footer(data: bytes) -> bytes:
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size] + bytes(size) + data[-8:]


OTHER = contribution("Jäger", 9)
WRITTEN = {  # a table with a right checksum and wrong content
    "a sample gone": lambda rows: table(rows[1:]),
    "a sample twice": lambda rows: table([*rows, rows[0]]),
    "a contributor gone": lambda rows: table([row for row in rows if row["contributor"] != "ada"]),
    "a contributor renamed": lambda rows: table([{**row, "contributor": row["contributor"].replace("ada", "eve")} for row in rows]),
    "samples moved": lambda rows: table([{**row, "contributor": "ada"} for row in rows]),
    "other data": lambda rows: table([{**row, "data": OTHER.data_hash} for row in rows]),
    "data of somebody else before": lambda rows: table(
        [{**rows[0], "data": OTHER.data_hash, "sample": sample} for sample in OTHER.sample_hashes] + rows
    ),
    "two dates of joining": lambda rows: table([{**rows[0], "joined": "1999-01-01"}, *rows[1:]]),
    "data no hash": lambda rows: table([{**row, "data": "../secret"} for row in rows]),
    "numbers": lambda rows: table([{**row, "data": 1} for row in rows]),
    "samples unknown": lambda rows: table([{**row, "sample": None} for row in rows]),
    "a column gone": lambda rows: table([{k: v for k, v in row.items() if k != "sample"} for row in rows]),
    "no rows": lambda rows: table([]),
    "no table": lambda rows: b"PAR1 not really PAR1",
    "broken footer": lambda rows: without_footer(table(rows)),
    "half a table": lambda rows: table(rows)[:200],
    "nothing": lambda rows: b"",
}


@pytest.mark.parametrize("make", WRITTEN.values(), ids=WRITTEN)
def test_a_table_that_is_not_the_manifest_of_its_id_is_damaged(make, store, tmp_path):
    manifest = write(store, GIVEN)
    spoilt, data = open_store((tmp_path / "spoilt").as_uri()), make(rows(store, manifest))
    spoilt.put_if_absent(manifest_key(manifest.id), data)
    with pytest.raises(Damaged, match=rf"(?s)found (no )?manifest .*{manifest.id}\.parquet.*it is left as it is"):
        read_manifest(spoilt, manifest.id)
    assert spoilt.get(manifest_key(manifest.id)) == data


@pytest.mark.parametrize("data", [b"", b"no safetensors", arrays_to_bytes({"pixels": np.zeros((1, 3, 4, 4), np.uint8)})])
def test_an_object_without_images_is_damaged(data, store):
    store.put_if_absent(images_key(OTHER.data_hash), data)
    with pytest.raises(Damaged, match=rf"found no training images in .*{OTHER.data_hash}"):
        training_images(store, [OTHER.data_hash], 4)


def test_reading_a_manifest_starts_no_thread(store):
    """Arrow's, still starting when a short process ends, abort it once torch is loaded: a stage would fail one time in five."""
    manifest = write(store, GIVEN)
    script = f"""
import os, torch
from apportion.stages.collection import read_manifest
from apportion.store import open_store
before = len(os.listdir("/proc/self/task"))
read_manifest(open_store({store.uri!r}), {manifest.id!r})
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
