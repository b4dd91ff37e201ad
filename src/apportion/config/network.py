"""Option `network`: the feature network that properties are measured with (docs/images.md, "Feature
networks")."""

import re
from typing import Annotated

from pydantic import AfterValidator, Discriminator, StringConstraints, Tag

from apportion.config.credentials import Address
from apportion.config.strict import Strict

EMBEDDED = "openmoji"
"""The network that comes with the embedded drawings."""
OWN = "train"
"""A network that `plan` trains on the round's own images."""
KNOWN = re.compile(r"(timm|torchvision)/.+|torch-fidelity/inception-v3-compat|transformers")
"""Architectures that `properties.architectures` offers."""


def _of_a_known_library(name: str) -> str:
    if not KNOWN.fullmatch(name):
        raise ValueError(
            "expected timm/NAME, torchvision/NAME, torch-fidelity/inception-v3-compat or transformers "
            '(docs/images.md, "Feature networks")'
        )
    return name


class Architecture(Strict):
    """A known architecture with weights of the user's choice. architecture: LIBRARY/NAME, or transformers.
    weights: the address of a safetensors file or, for transformers, of a folder."""

    architecture: Annotated[
        str, StringConstraints(min_length=1, max_length=200), AfterValidator(_of_a_known_library)
    ]
    weights: Address


NetworkChoice = Annotated[
    Annotated[Address, Tag("address")] | Annotated[Architecture, Tag("architecture")],
    Discriminator(lambda choice: "architecture" if isinstance(choice, dict | Architecture) else "address"),
]
"""`openmoji`, `train`, the address of a file, or a known architecture."""
