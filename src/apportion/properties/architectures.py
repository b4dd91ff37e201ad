"""Feature networks of libraries: a known architecture with weights of the user's choice.

`timm/NAME` and `torchvision/NAME` are a model by its name there, with a safetensors file; features are what
its last linear layer, the classifier, reads.

`torch-fidelity/inception-v3-compat` is the Inception v3 that FID is usually computed with; features are the
2048 after pooling, and logits have no bias, as for the Inception score.

`transformers` is a folder with config.json, preprocessor_config.json and model.safetensors, as of DINO, ViT
or ResNet; features are the pooled output and, of CLIP with its projection, the projected embedding.

A model is stored as one file: its weights, and in the header what rebuilds it. No file of the user is
unpickled, and no code of a folder runs. The libraries are optional; the error for a missing one says what to
install.
"""

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.errors import PropertyError

Outputs = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Tensors = Mapping[str, torch.Tensor]

PAGE = 'docs/images.md, "Feature networks"'
INCEPTION = "inception-v3-compat"
EXAMPLES = ("timm/resnet18", "torchvision/resnet50", f"torch-fidelity/{INCEPTION}", "transformers")
FOLDER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
"""What a folder of transformers must hold."""
TOWERS = {
    "clip": ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
    "clip_vision_model": ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel"),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel"),
}
"""The configuration and the model of the image tower of a model of text and images, by the kind of model in
config.json. Of other kinds the whole model is one of images."""
POOLED = ("image_embeds", "pooler_output")
"""What a model without classes gives for a whole image, the best first."""


class LibraryNetwork(nn.Module):
    """A model of a library as a feature network. about: what its file says, with `input` as side, mean and
    std where images are resized and normalised here."""

    batch = 32

    def __init__(self, model: nn.Module, outputs: Outputs, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self._outputs, self._input = model, outputs, about.get("input")

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (k, d) and logits (k, classes) of images uint8 (k, 3, side, side)."""
        if self._input is None:
            return self._outputs(pixels)
        side = self._input["side"]
        images = nn.functional.interpolate(
            pixels.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
        )
        mean, std = (
            torch.tensor(self._input[name], device=pixels.device).view(1, 3, 1, 1) for name in ("mean", "std")
        )
        return self._outputs((images.clamp(0, 255) / 255 - mean) / std)


class Library(NamedTuple):
    """describe: what the header says of a model, and its tensors, from its name and files; raises ValueError
    or errors of the library where files do not fit. build: the network with these tensors."""

    describe: Callable[[str, Mapping[str, bytes]], tuple[dict[str, Any], Tensors]]
    build: Callable[[str, Mapping[str, Any], Tensors], LibraryNetwork]


def packed(architecture: str, files: Mapping[str, bytes], source: str) -> bytes:
    """A model and its weights as one safetensors file. files: the weights as "weights", or the files of a
    folder by name. Raises PropertyError where the architecture or its library is missing, or where the
    weights are not of it."""
    with _explained(architecture, source) as library:
        name = architecture.partition("/")[2]
        about, tensors = library.describe(name, files)
        network = library.build(name, about, tensors)
        tensors = {key: tensor.contiguous().clone() for key, tensor in network.model.state_dict().items()}
    about = {**about, "architecture": architecture}
    return tensors_to_bytes(tensors, metadata={"about": json.dumps(about, sort_keys=True)})


def rebuilt(about: Mapping[str, Any], tensors: Tensors) -> LibraryNetwork:
    """The network of a file that `packed` made. Raises PropertyError where its library is missing, or of a
    version in which the model has other weights."""
    with _explained(about["architecture"], "the stored network") as library:
        return library.build(about["architecture"].partition("/")[2], about, tensors)


@contextmanager
def _explained(architecture: str, source: str) -> Iterator[Library]:
    """The library of an architecture. Its errors become a PropertyError."""
    name = architecture.partition("/")[0]
    if name not in OFFERED:
        raise PropertyError(
            f"found network.architecture {architecture!r}, expected a name such as {', '.join(EXAMPLES)} "
            f"({PAGE})"
        )
    try:
        import_module(name.replace("-", "_"))
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another version of torch
        raise PropertyError(
            f"cannot import {name}, which network.architecture {architecture!r} needs: {error}; install a "
            f"version of it for torch {torch.__version__}, or choose another network ({PAGE})"
        ) from error
    try:
        yield OFFERED[name]
    except Exception as error:  # libraries raise errors of many kinds for names and weights that do not fit
        raise PropertyError(
            f"cannot make a feature network {architecture} from {source} (network.architecture, "
            f"network.weights; {PAGE}): {type(error).__name__}: {error}"
        ) from error


def _loaded(network: LibraryNetwork, tensors: Tensors) -> LibraryNetwork:
    """The network with these weights, which must be exactly those of its model, for evaluation."""
    found = network.model.load_state_dict(dict(tensors), strict=False)
    unknown = [name for name in found.unexpected_keys if not name.endswith("position_ids")]
    if found.missing_keys or unknown:
        raise ValueError(
            f"{len(found.missing_keys)} tensors of the model are missing {found.missing_keys[:3]}, and "
            f"{len(unknown)} others are not of it {unknown[:3]}"
        )
    return network.eval().requires_grad_(requires_grad=False)


def _around_last_layer(model: nn.Module) -> Outputs:
    """Features are the input of the model's last linear layer; logits are what the model returns."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def outputs(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = model(images)
        return seen.pop().flatten(1), getattr(result, "logits", result)

    return outputs


# timm


def _describe_timm(name: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any], Tensors]:
    import timm

    tensors = tensors_from_bytes(files["weights"])
    model = timm.create_model(name, pretrained=False)
    settings, classifier = timm.data.resolve_model_data_config(model), model.pretrained_cfg.get("classifier")
    return {
        "classes": len(tensors.get(f"{classifier}.bias", ())),
        "input": _input(settings["input_size"][-1], settings["mean"], settings["std"]),
    }, tensors


def _build_timm(name: str, about: Mapping[str, Any], tensors: Tensors) -> LibraryNetwork:
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=about["classes"])

    def outputs(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = model.forward_features(images)
        features = model.forward_head(maps, pre_logits=True)
        return features, model.forward_head(maps) if about["classes"] else features[:, :0]

    return _loaded(LibraryNetwork(model, outputs, about), tensors)


# torchvision


def _describe_torchvision(name: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any], Tensors]:
    from torchvision.models import get_model, get_model_weights

    tensors = tensors_from_bytes(files["weights"])
    of_weights = get_model_weights(name).DEFAULT.transforms()
    last = [key for key, part in get_model(name, weights=None).named_modules() if isinstance(part, nn.Linear)]
    return {
        "classes": len(tensors[f"{last[-1]}.weight"]),
        "input": _input(of_weights.crop_size[0], of_weights.mean, of_weights.std),
    }, tensors


def _build_torchvision(name: str, about: Mapping[str, Any], tensors: Tensors) -> LibraryNetwork:
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=about["classes"])
    return _loaded(LibraryNetwork(model, _around_last_layer(model), about), tensors)


# torch-fidelity


def _describe_torch_fidelity(name: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any], Tensors]:
    if name != INCEPTION:
        raise ValueError(f"found {name!r}, expected {INCEPTION}")
    tensors = tensors_from_bytes(files["weights"])
    return {"classes": len(tensors["fc.bias"])}, tensors


def _build_torch_fidelity(name: str, about: Mapping[str, Any], tensors: Tensors) -> LibraryNetwork:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Its constructor unpickles a file. What it gets here was read as safetensors and pickled just now.
    weights = io.BytesIO()
    torch.save(dict(tensors), weights)
    weights.seek(0)
    model = FeatureExtractorInceptionV3(name, ["2048", "logits_unbiased"], weights)
    return _loaded(LibraryNetwork(model, model, about), tensors)


# transformers


def _describe_transformers(_: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any], Tensors]:
    config, settings = (json.loads(files[name]) for name in FOLDER_FILES[:2])
    model_class, of_model = _transformers_class(config)
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDER_FILES:
            (Path(folder) / name).write_bytes(files[name])
        # `from_pretrained` renames what older versions of the library wrote under other names.
        model, found = model_class.from_pretrained(
            folder,
            config=of_model,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # The library would give what is missing or of another shape random values.
    if absent := sorted([*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]):
        raise ValueError(f"{len(absent)} tensors of the model are missing, or of another shape: {absent[:3]}")
    size = settings.get("crop_size") or settings.get("size") or {}
    side = size if isinstance(size, int) else size.get("shortest_edge", size.get("height"))
    classes = getattr(of_model, "num_labels", 0) if "ForImageClassification" in model_class.__name__ else 0
    return {
        "classes": classes,
        "input": _input(side, settings["image_mean"], settings["image_std"]),
        "config": config,
    }, model.state_dict()


def _build_transformers(_: str, about: Mapping[str, Any], tensors: Tensors) -> LibraryNetwork:
    model_class, config = _transformers_class(about["config"])
    make = getattr(model_class, "from_config", model_class._from_config)
    model = make(config)
    if about["classes"]:
        return _loaded(LibraryNetwork(model, _around_last_layer(model), about), tensors)

    def outputs(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = model(pixel_values=images)
        features = next(value for name in POOLED if (value := getattr(result, name, None)) is not None)
        return features.flatten(1), features.flatten(1)[:, :0]

    return _loaded(LibraryNetwork(model, outputs, about), tensors)


def _transformers_class(config: dict[str, Any]) -> tuple[Any, Any]:
    """The class of the model of a config.json, and its configuration. Code of a folder is never used."""
    import transformers

    transformers.logging.set_verbosity_error()  # what it would say of tensors is checked here
    transformers.logging.disable_progress_bar()
    kind = config["model_type"]
    if kind in TOWERS:
        of_tower, model = (getattr(transformers, name) for name in TOWERS[kind])
        if config.get("architectures") == ["CLIPVisionModel"]:  # saved without its projection
            model = transformers.CLIPVisionModel
        # The size of CLIP's embedding is that of the whole model.
        size = {key: config[key] for key in ("projection_dim",) if key in config}
        return model, of_tower.from_dict({**config.get("vision_config", config), **size})
    of_model = transformers.AutoConfig.for_model(**config)
    if any(name.endswith("ForImageClassification") for name in config.get("architectures") or ()):
        return transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(of_model)], of_model
    return transformers.MODEL_MAPPING[type(of_model)], of_model


def _input(side: Any, mean: Any, std: Any) -> dict[str, Any]:
    if not isinstance(side, int) or side < 1 or not len(mean) == len(std) == 3:
        raise ValueError(f"found input size {side}, mean {mean} and std {std}, expected those of RGB images")
    return {"side": side, "mean": [*map(float, mean)], "std": [*map(float, std)]}


OFFERED = {
    "timm": Library(_describe_timm, _build_timm),
    "torchvision": Library(_describe_torchvision, _build_torchvision),
    "torch-fidelity": Library(_describe_torch_fidelity, _build_torch_fidelity),
    "transformers": Library(_describe_transformers, _build_transformers),
}
