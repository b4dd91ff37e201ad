"""Generated images as stored objects, and the cost in the header of a stored object."""

import numpy as np
import pytest
from safetensors.numpy import save as arrays_to_bytes

from apportion.errors import Damaged, NotFound
from apportion.records import Cost
from apportion.rounds.cost import cost_header, read_cost, timed
from apportion.rounds.samples import dump_samples, load_samples
from apportion.store import open_store

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
COST = Cost(finetune=1.25, sample=0.5, device="NVIDIA H200, bf16")


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path.as_uri())


def test_images_are_read_as_they_were_stored(store):
    store.put_if_absent("samples/a", dump_samples(IMAGES, COST))
    images, cost = load_samples(store, "samples/a")
    assert images.dtype == np.uint8
    assert np.array_equal(images, IMAGES)
    assert cost == COST


@pytest.mark.parametrize(
    "data", [b"", b"no safetensors", arrays_to_bytes({"pixels": IMAGES}, cost_header(COST))]
)
def test_an_object_without_images_is_damaged(store, data):
    store.put_if_absent("samples/a", data)
    with pytest.raises(Damaged, match=r"found no images in .*samples/a, expected safetensors of `images`"):
        load_samples(store, "samples/a")


def test_missing_images_are_reported(store):
    with pytest.raises(NotFound, match="samples/a"):
        load_samples(store, "samples/a")


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune_seconds": None},
        {"device": None},
        {"sample_seconds": "soon"},
        {"sample_seconds": "-1.000"},
        {"finetune_seconds": "nan"},
    ],
)
def test_an_object_without_a_cost_is_damaged(store, changes):
    header = {name: text for name, text in (cost_header(COST) | changes).items() if text is not None}
    data = arrays_to_bytes({"images": IMAGES}, header)
    with pytest.raises(Damaged, match=r"(?s)found no cost in the header of here: .*it is left as it is"):
        read_cost(data, "here")
    store.put_if_absent("samples/a", data)
    with pytest.raises(Damaged, match="found no cost in the header"):
        load_samples(store, "samples/a")


def test_a_cost_is_kept_to_the_millisecond():
    data = arrays_to_bytes({"images": IMAGES}, cost_header(Cost(finetune=1.23456, device="cpu")))
    assert read_cost(data, "here") == Cost(finetune=1.235, device="cpu")


def test_the_time_of_a_block_is_measured():
    with timed() as clock:
        assert clock.seconds == 0.0
        sum(range(10_000))
    assert 0 < clock.seconds < 10
