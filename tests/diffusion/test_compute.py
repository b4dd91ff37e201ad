"""Devices, threads and generators."""

from collections.abc import Iterator

import pytest
import torch

from apportion.diffusion.compute import Compute, generator, pick, prepare
from apportion.errors import ConfigError

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="for machines with CUDA")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@no_cuda
def test_cuda_that_is_requested_and_absent_is_refused():
    message = r"found no CUDA device .* expected one for compute\.device: cuda; choose auto or cpu"
    for request in (pick, lambda device: prepare(device, "fp32", 1)):
        with pytest.raises(ConfigError, match=message):
            request("cuda")


@no_cuda
def test_auto_is_the_cpu_without_cuda():
    assert pick("auto") == torch.device("cpu")


@cuda
def test_auto_is_cuda_where_there_is_one():
    assert pick("auto") == pick("cuda") == torch.device("cuda")


def test_cpu_is_the_cpu_everywhere():
    assert pick("cpu") == torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2])
def test_preparing_sets_the_threads_and_names_them(count):
    compute = prepare("cpu", "bf16", count)
    assert torch.get_num_threads() == count
    assert compute == Compute(torch.device("cpu"), "bf16")
    assert compute.name == f"cpu ({count} threads), bf16"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_matrix_products(precision, dtype):
    x = torch.ones(2, 2)
    with Compute(torch.device("cpu"), precision).autocast():
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def first(*key: object) -> torch.Tensor:
    return torch.randn(64, generator=generator(*key))


def test_a_stream_is_a_function_of_its_key_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stream = first(3, "noise", 5)
    torch.manual_seed(1)
    assert torch.equal(first(3, "noise", 5), stream)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)
    # The numbers of the demo depend on these.
    assert stream[:3].tolist() == pytest.approx([-1.2924, -0.3388, 0.2632], abs=1e-4)


def test_streams_of_different_keys_are_uncorrelated():
    keys = [(), (0,), (1,), ("0",), (0, 1), (1, 0), (0, "noise", 1), (0, "batch", 1), (0, "image", 1)]
    keys += [(0, "noise", 11), ("0noise", 1)]
    streams = torch.stack([first(*key) for key in keys])
    assert len(streams.unique(dim=0)) == len(keys)
    assert (torch.corrcoef(streams) - torch.eye(len(keys))).abs().max() < 0.5


def test_neighbouring_seeds_give_independent_numbers():
    draws = torch.stack([first(seed, "image", 0) for seed in range(500)])
    assert draws[:, 0].std() == pytest.approx(1, abs=0.1)
    assert torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].abs() < 0.15
    assert len(draws[:, 0].unique()) == 500
