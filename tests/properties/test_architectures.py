"""Feature networks of libraries, against the libraries' own models."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from apportion.config.network import Architecture
from apportion.errors import PropertyError
from apportion.properties import architectures
from apportion.properties.architectures import FOLDER_FILES, packed
from apportion.properties.network import embed, load

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(256, size=(5, 3, 24, 24), dtype=np.uint8))
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
}


def available(name):
    """Whether a library can be imported: torchvision has builds for one version of torch only."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):
        return False
    return True


def needs(name):
    return pytest.mark.skipif(not available(name), reason=f"needs {name} for this version of torch")


def folder_of(path: Path, model, size) -> dict[str, bytes]:
    """The files of a model that the library writes, with the settings of its images."""
    model.save_pretrained(path)
    settings = {"image_mean": MEAN, "image_std": STD, **size}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return {name: (path / name).read_bytes() for name in FOLDER_FILES}


def normalised(side):
    resized = torch.nn.functional.interpolate(IMAGES.float(), (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (MEAN, STD))
    return (resized.clamp(0, 255) / 255 - mean) / std


@needs("transformers")
def test_a_tower_of_clip_gives_projected_embeddings(tmp_path):
    """Also from the checkpoint of the whole model, with its text tower."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    small = TINY | {"intermediate_size": 32}
    torch.manual_seed(0)
    whole = CLIPModel(
        CLIPConfig(vision_config=small, text_config={**small, "vocab_size": 99}, projection_dim=12)
    )
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    files = folder_of(tmp_path / "whole", whole, size)
    pooled = whole.eval().vision_model(pixel_values=normalised(32)).pooler_output
    expected = whole.visual_projection(pooled).detach().numpy()
    of_tower = CLIPVisionConfig(**small, projection_dim=12)
    tower = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "whole", config=of_tower)
    for of_files in (files, folder_of(tmp_path / "tower", tower, {"crop_size": 32})):
        network = load(packed("transformers", of_files, "folder"), "stored")
        features, probabilities = embed(network, IMAGES)
        assert features.shape == (5, 12)
        assert np.allclose(features, expected, atol=1e-5)
        assert probabilities.shape == (5, 0)


@needs("transformers")
def test_a_tower_of_clip_without_projection_gives_its_pooled_output(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    model = CLIPVisionModel(CLIPVisionConfig(**TINY, intermediate_size=32)).eval()
    files = folder_of(tmp_path, model, {"crop_size": 32})
    features, _ = embed(load(packed("transformers", files, "folder"), "stored"), IMAGES)
    expected = model(pixel_values=normalised(32)).pooler_output.detach().numpy()
    assert np.allclose(features, expected, atol=1e-5)


@needs("transformers")
@pytest.mark.parametrize("kind", ["Dinov2", "ViT"])
def test_models_of_images_give_their_pooled_output(tmp_path, kind):
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**TINY)).eval()
    files = folder_of(tmp_path, model, {"size": {"height": 32, "width": 32}})
    features, _ = embed(load(packed("transformers", files, "folder"), "stored"), IMAGES)
    expected = model(pixel_values=normalised(32)).pooler_output.detach().numpy()
    assert np.allclose(features, expected, atol=1e-5)


@needs("transformers")
def test_a_classifier_gives_class_probabilities_too(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)
    model = ResNetForImageClassification(config).eval()
    files = folder_of(tmp_path, model, {"size": {"shortest_edge": 24}})
    features, probabilities = embed(load(packed("transformers", files, "folder"), "stored"), IMAGES)
    outputs = model(pixel_values=normalised(24), output_hidden_states=True)
    pooled = outputs.hidden_states[-1].mean((2, 3)).detach().numpy()
    assert np.allclose(features, pooled, atol=1e-5)
    assert np.allclose(probabilities, outputs.logits.softmax(1).detach().numpy(), atol=1e-6)


@needs("transformers")
def test_the_same_files_give_the_same_bytes(tmp_path):
    from transformers import ViTConfig, ViTModel

    files = folder_of(tmp_path, ViTModel(ViTConfig(**TINY)), {"size": 32})
    assert packed("transformers", files, "a") == packed("transformers", files, "b")


@needs("transformers")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.safetensors": save({"x": torch.zeros(1)})}, "missing"),
        ({"model.safetensors": b"pickle"}, "model.safetensors|header"),
        ({"config.json": b'{"model_type": "nowhere"}'}, "nowhere"),
        ({"config.json": b"[]"}, "list"),
        ({"preprocessor_config.json": b"{}"}, "image_mean"),
        ({"preprocessor_config.json": b'{"image_mean": [0], "image_std": [1], "size": 32}'}, "RGB"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    from transformers import ViTConfig, ViTModel

    files = folder_of(tmp_path, ViTModel(ViTConfig(**TINY)), {"size": 32}) | change
    with pytest.raises(PropertyError, match=rf"(?s)from s3://b/vit \(network\.architecture.*{message}"):
        packed("transformers", files, "s3://b/vit")


@needs("transformers")
def test_a_tensor_of_another_shape_is_refused(tmp_path):
    """The library alone would use random values there."""
    from transformers import ViTConfig, ViTModel

    files = folder_of(tmp_path, ViTModel(ViTConfig(**TINY)), {"size": 32})
    config = json.loads(files["config.json"]) | {"intermediate_size": 64}
    with pytest.raises(PropertyError, match="tensors of the model are missing, or of another shape"):
        packed("transformers", files | {"config.json": json.dumps(config).encode()}, "folder")


@needs("transformers")
def test_code_of_a_folder_never_runs(tmp_path):
    from transformers import ViTConfig, ViTModel

    files = folder_of(tmp_path, ViTModel(ViTConfig(**TINY)), {"size": 32})
    config = json.loads(files["config.json"]) | {
        "model_type": "own",
        "auto_map": {"AutoModel": "modeling.Own", "AutoConfig": "modeling.OwnConfig"},
    }
    with pytest.raises(PropertyError, match="own"):
        packed("transformers", files | {"config.json": json.dumps(config).encode()}, "folder")


@needs("timm")
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_models_of_timm(name):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=6).eval()
    network = load(packed(f"timm/{name}", {"weights": save(model.state_dict())}, "file"), "stored")
    features, probabilities = embed(network, IMAGES)
    settings = timm.data.resolve_model_data_config(model)
    assert network._input["side"] == settings["input_size"][-1]
    assert network._input["mean"] == list(settings["mean"])
    side = settings["input_size"][-1]
    resized = torch.nn.functional.interpolate(IMAGES.float(), (side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(settings[part]).view(1, 3, 1, 1) for part in ("mean", "std"))
    images = (resized.clamp(0, 255) / 255 - mean) / std
    assert np.allclose(probabilities, model(images).softmax(1).detach().numpy(), atol=1e-5)
    model.reset_classifier(0)
    assert np.allclose(features, model(images).detach().numpy(), atol=1e-4)


@needs("torchvision")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_models_of_torchvision(name):
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=6).eval()
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    network = load(packed(f"torchvision/{name}", {"weights": save(model.state_dict())}, "file"), "stored")
    features, probabilities = embed(network, IMAGES)
    assert network._input["side"] == transforms.crop_size[0]
    resized = torch.nn.functional.interpolate(
        IMAGES.float(), (transforms.crop_size[0],) * 2, mode="bicubic", antialias=True
    )
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (transforms.mean, transforms.std))
    logits = model((resized.clamp(0, 255) / 255 - mean) / std)
    assert np.allclose(probabilities, logits.softmax(1).detach().numpy(), atol=1e-5)
    last = [part for part in model.modules() if isinstance(part, torch.nn.Linear)][-1]
    again = last(torch.from_numpy(features).float()).softmax(1).detach().numpy()
    assert np.allclose(again, probabilities, atol=1e-5)


@needs("torch_fidelity")
def test_the_inception_of_torch_fidelity(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    blank = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:  # random weights in place of a download
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(torch, "load", lambda *_, **__: {})
        blank.__init__("inception-v3-compat", ["2048", "logits_unbiased"], "random")
    name = "torch-fidelity/inception-v3-compat"
    network = load(packed(name, {"weights": save(blank.state_dict())}, "file"), "stored")
    features, probabilities = embed(network, IMAGES)
    expected = blank(IMAGES)
    assert np.allclose(features, expected[0].numpy(), atol=1e-5)
    assert np.allclose(probabilities, expected[1].softmax(1).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["timm", "torchvision", "torch_fidelity"])
def test_a_missing_library_is_named(name, monkeypatch):
    if available(name):
        pytest.skip(f"{name} is installed")
    library = name.replace("_", "-")
    needed = rf"cannot import {library}, which network\.architecture '{library}/x' needs: "
    with pytest.raises(PropertyError, match=needed + f".*for torch {re.escape(torch.__version__)}"):
        packed(f"{library}/x", {"weights": b""}, "file")


@pytest.mark.parametrize("name", ["resnet18", "keras/vgg16", ""])
def test_another_name_is_refused(name):
    with pytest.raises(
        PropertyError, match=r"found network\.architecture .*, expected a name such as timm/res"
    ):
        packed(name, {"weights": b""}, "file")


def test_every_example_is_of_a_known_library():
    assert {name.partition("/")[0] for name in architectures.EXAMPLES} == set(architectures.OFFERED)
    for name in architectures.EXAMPLES:
        assert Architecture(architecture=name, weights="/w").architecture == name
    with pytest.raises(ValidationError, match="expected timm/NAME, torchvision/NAME"):
        Architecture(architecture="resnet18", weights="/w")
