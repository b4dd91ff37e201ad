"""The games of a round, and the base model they start from: pure functions of configuration, manifest and
networks."""

from typing import Literal

from apportion.config.family import DdpmOptions
from apportion.config.hashing import digest
from apportion.config.removal import OwnImages, Removal, Retrain
from apportion.config.round import Config
from apportion.config.sampling import Sampling
from apportion.properties import PROPERTIES
from apportion.records import SCHEMA, Base, Game, Manifest, Measurement, Recipe, Role, Start, samples_address

Precision = Literal["fp32", "bf16"]


def base_of(config: Config, manifest: Manifest, precision: Precision) -> Base:
    """The base model: trained on the data of all contributors, by the recipe that retrained coalitions have
    too."""
    recipe = _recipe(config, Retrain(method="retrain"), None, precision)
    return Base(recipe=recipe, seed=config.seed, data=manifest.all_data)


def games_of(config: Config, base: Base, network: str | None, precision: Precision) -> dict[Role, Game]:
    """The games by their role. network: the hash of the feature network of the properties that need one."""
    if not config.removal.generates:
        precision = "fp32"  # of scoring: nothing else is computed
    start = Start(base=base.id, pruning=config.removal.prune, seed=config.seed)
    measurements = _measurements(config, base, network)
    recipes: dict[Role, Recipe] = {
        "credit": _recipe(config, config.removal, start, precision),
        "truth": base.recipe,
        "baseline": _recipe(config, OwnImages(method="own_images"), None, "fp32"),
    }
    return {
        role: Game(
            recipe=recipe,
            sampling=config.sampling if recipe.removal.generates else Sampling(),
            properties=measurements,
        )
        for role, recipe in recipes.items()
    }


def _recipe(config: Config, removal: Removal, start: Start | None, precision: Precision) -> Recipe:
    return Recipe(
        version=SCHEMA,
        model=config.model if removal.generates else DdpmOptions(),  # the default, where there is no model
        resolution=config.data.resolution,
        precision=precision,
        removal=removal,
        train=None if removal.starts or not removal.generates else config.train,
        start=start if removal.starts else None,
    )


def _measurements(config: Config, base: Base, network: str | None) -> tuple[Measurement, ...]:
    """How each property is measured. Only a property that compares images with a reference has one: the other
    properties of a coalition do not depend on the data of contributors outside it."""
    measurements = []
    for name in sorted(config.properties):
        row = PROPERTIES[name]
        own = network if row.needs_network else None
        reference = _reference(base, config, own) if row.needs_reference else None
        measurements.append(Measurement(property=name, network=own, reference=reference))
    return tuple(measurements)


def _reference(base: Base, config: Config, network: str | None) -> str:
    """Address of a reference: all training images and images of the base model, in the features of a
    network."""
    samples = samples_address(base.id, config.sampling)
    return digest({"data": base.data, "samples": samples, "network": network})
