"""A new model family is options in config/family.py and one module that implements it. This one is
conditioned on labels, so the hash of the data covers them, and its mixtures are conditions of one model."""

from overlay import ROUND, SMALLEST, Overlay

OPTIONS = '''
class ToyOptions(FamilyOptions):
    """A colour for each label."""

    family: Literal["toy"] = "toy"
    condition: ClassVar[Literal["label"] | None] = "label"

    def check(self, resolution: int, sampling: Sampling) -> None:
        if sampling.steps != 1:
            raise ValueError(f"found sampling.steps {sampling.steps}, expected 1")


'''

MODULE = '''
"""The family `toy`: one colour for each label, which is the model's guess of an image."""

import torch
from safetensors.torch import load, save
from torch import nn

from apportion.diffusion.compute import generator
from apportion.diffusion.family import Batch, Family


class Colours(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.table = nn.Parameter(torch.randn((997, 3), generator=generator(seed, "toy")))

    def forward(self, label):
        return self.table[label][:, :, None, None]


def number(label):
    return sum(label.encode()) % 997


class Labelled:
    def __init__(self, images, device):
        self.pixels = torch.from_numpy(images.pixels).to(device)
        self.labels = torch.tensor([number(text) for text in images.condition], device=device)

    def __len__(self):
        return len(self.pixels)

    def batch(self, index, mirror):
        return Batch(self.pixels[index].float() / 127.5 - 1, self.labels[index])


class Toy(Family):
    timesteps = 10

    def build(self, options, resolution, seed):
        return Colours(seed)

    def dump(self, model, about=None):
        return save({"table": model.table.detach().contiguous()}, metadata=about)

    def load(self, data, origin, device="cpu"):
        model = Colours()
        model.load_state_dict(load(data))
        return model.to(device).eval()

    def encode(self, images, compute):
        return Labelled(images, compute.device)

    def signal_to_noise(self, t):
        return torch.ones_like(t, dtype=torch.float32)

    def error(self, model, batch, t, eps, compute):
        return ((model(batch.condition) - batch.x0) ** 2).mean(dim=(1, 2, 3))

    def sample(self, sampler, sampling, seed, compute, tick=None):
        labels = torch.arange(sampling.images) % 997
        noise = torch.randn((sampling.images, 3, 16, 16), generator=generator(seed, "image"))
        images = sampler.predict(lambda model: model(labels)).detach() + 0.1 * noise
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def prune(self, model, pruning, seed):
        return model


FAMILY = Toy()
'''

CHECK = """
from apportion.datasets import load
plain, labelled = load(this_round.config.data), load(this_round.config.data, "label")
assert [c.data_hash for c in labelled] == [c.data for c in this_round.manifest.contributors]
assert not {c.data_hash for c in plain} & {c.data_hash for c in labelled}
print(this_round.config.model.family, len(this_round.credits.of("colourfulness_p90")))
"""


def test_a_family_is_two_files(tmp_path):
    overlay = Overlay(tmp_path / "overlay", "configs")
    overlay.edit(
        "src/apportion/config/family.py",
        ("def _family(value: Any)", OPTIONS.lstrip() + "def _family(value: Any)"),
        (
            'Annotated[DdpmOptions, Tag("ddpm")]',
            'Annotated[DdpmOptions, Tag("ddpm")] | Annotated[ToyOptions, Tag("toy")]',
        ),
        ('"apportion.diffusion.ddpm"}', '"apportion.diffusion.ddpm", "toy": "apportion.diffusion.toy"}'),
    )
    overlay.add("src/apportion/diffusion/toy.py", MODULE.lstrip())
    assert len(overlay.changed) == 2
    said = overlay.run("-c", ROUND + CHECK, str(tmp_path / "work"), *SMALLEST, "model={family: toy}")
    assert said.split()[-2:] == ["toy", "3"]
