"""The precision that a round is planned with."""

from pathlib import Path

import pytest
import torch

from apportion.config.compute import ComputeOptions
from apportion.planning import precision
from apportion.planning.precision import resolve


def resolved(monkeypatch, device: str, cuda: bool, fast_processor: bool) -> str:
    monkeypatch.setattr(precision, "_cuda", lambda: cuda)
    monkeypatch.setattr(precision, "_processor", lambda: fast_processor)
    return resolve(ComputeOptions(device=device))


@pytest.mark.parametrize("fast_processor", [True, False])
def test_auto_is_bf16_on_a_gpu_and_on_a_processor_that_multiplies_it(fast_processor, monkeypatch):
    on_processor = "bf16" if fast_processor else "fp32"
    for cuda in (True, False):
        # A round for CUDA may be planned where there is none.
        assert resolved(monkeypatch, "cuda", cuda, fast_processor) == "bf16"
        assert resolved(monkeypatch, "cpu", cuda, fast_processor) == on_processor
    assert resolved(monkeypatch, "auto", True, fast_processor) == "bf16"
    assert resolved(monkeypatch, "auto", False, fast_processor) == on_processor


@pytest.mark.parametrize("requested", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_requested_precision_is_used(requested, device):
    assert resolve(ComputeOptions(device=device, precision=requested)) == requested


@pytest.mark.parametrize(
    ("flags", "fast"), [("fpu amx_tile", True), ("fpu avx512_bf16", True), ("fpu avx512f", False)]
)
def test_the_processor_is_known_by_its_flags(flags, fast, monkeypatch):
    monkeypatch.setattr(precision.sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor: 0\nflags: {flags}\n")
    assert precision._processor() == fast


@pytest.mark.parametrize(
    ("tiles", "products", "fast"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_torch_knows_the_processor_on_other_systems(tiles, products, fast, monkeypatch):
    monkeypatch.setattr(precision.sys, "platform", "darwin")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: products)
    assert precision._processor() == fast


def test_the_answers_are_those_of_torch():
    processor = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert precision._processor() == bool(processor)
    assert precision._cuda() == torch.cuda.is_available()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this a Linux machine with these flags of its processor and, or not, the device file of an
    accelerator; `gpu` is the answer of torch, which must not be used without a device file."""

    def make(flags: str, device_file: bool, gpu: bool = False) -> None:
        def answer() -> bool:
            assert device_file
            return gpu

        device = tmp_path / "nvidiactl"
        device.unlink(missing_ok=True)
        if device_file:
            device.touch()
        cpuinfo = f"processor\t: 0\nmodel name\t: any\nflags\t\t: fpu {flags} sse\n"
        monkeypatch.setattr(precision.sys, "platform", "linux")
        monkeypatch.setattr(precision, "ACCELERATORS", (str(device), str(tmp_path / "kfd")))
        monkeypatch.setattr(torch.cuda, "is_available", answer)
        monkeypatch.setattr(Path, "read_text", lambda path, **_: {"/proc/cpuinfo": cpuinfo}[str(path)])

    return make


@pytest.mark.parametrize(
    ("flags", "device_file", "gpu", "expected"),
    [
        ("avx512f", False, False, "fp32"),
        ("avx512_bf16", False, False, "bf16"),
        ("amx_tile amx_int8", False, False, "bf16"),
        ("amx_tiles", False, False, "fp32"),
        ("avx512f", True, True, "bf16"),
        ("avx512f", True, False, "fp32"),  # a driver without a device that works
        ("avx512_bf16", True, False, "bf16"),
    ],
)
def test_auto_depends_on_what_this_machine_has(machine, flags, device_file, gpu, expected):
    machine(flags, device_file, gpu)
    assert resolve(ComputeOptions(device="auto")) == expected


def test_without_a_device_file_torch_is_not_used(machine):
    machine("avx512f", device_file=False)
    assert not precision._cuda()
    machine("avx512f", device_file=True, gpu=True)
    assert precision._cuda()


def test_a_requested_device_decides_whatever_this_machine_has(machine):
    """A round for CUDA may be planned on a node without one; a round for the processor ignores a GPU."""
    machine("avx512f", device_file=False)
    assert resolve(ComputeOptions(device="cuda")) == "bf16"
    machine("avx512f", device_file=True, gpu=True)
    assert resolve(ComputeOptions(device="cpu")) == "fp32"
