"""Trains the feature network that comes with the embedded drawings: it classifies them by group of emoji.

    python -m apportion.datasets.openmoji.classifier

Every fifth drawing is held out, and the accuracy on these is written into the header of the file. Drawings
are shifted and, where that is allowed, mirrored. The network is trained on both embedded resolutions, so that
it can be used for either.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.nn.functional import cross_entropy, pad

from apportion.properties.network import FeatureNetwork, dump, embed

HERE = Path(__file__).parent
EPOCHS, BATCH, RATE, SHIFT = 40, 128, 3e-3, 2
HELD_OUT_EVERY = 5


def drawings(side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Pixels (k, 3, side, side) uint8, classes (k,), whether each drawing may be mirrored (k,), and the names
    of the classes."""
    table = pq.read_table(HERE / "drawings.parquet", columns=["group", "flip", f"rgb{side}"])
    # The two groups of extras hold drawings of all other kinds, so they are no classes.
    table = table.filter(pc.invert(pc.starts_with(table["group"], "extras")))
    names, classes = np.unique(table["group"].to_pylist(), return_inverse=True)
    pixels = np.stack(
        [np.frombuffer(rgb, np.uint8).reshape(side, side, 3) for rgb in table[f"rgb{side}"].to_pylist()]
    )
    flip = torch.tensor(table["flip"].to_pylist())
    return (
        torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(classes),
        flip,
        names.tolist(),
    )


def train(seed: int = 0) -> tuple[FeatureNetwork, dict[str, object]]:
    """The trained network, and what its header says of it: classes, held-out accuracy by resolution, held-out
    drawings."""
    torch.manual_seed(seed)
    sets = {side: drawings(side) for side in (16, 32)}
    names = sets[16][3]
    held_out = torch.arange(len(sets[16][0])) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    kept = torch.nonzero(~held_out).flatten()
    network = FeatureNetwork(len(names)).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * (len(kept) // BATCH) * len(sets)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        pixels, classes, flip, _ = sets[(16, 32)[step % 2]]
        index = kept[torch.randint(len(kept), (BATCH,))]
        loss = cross_entropy(
            network(_augment(pixels[index], flip[index]))[1], classes[index], label_smoothing=0.1
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    accuracy = {str(side): _accuracy(network, *(part[held_out] for part in sets[side][:2])) for side in sets}
    return network, {
        "classes": names,
        "held_out_accuracy": accuracy,
        "held_out_drawings": int(held_out.sum()),
    }


def _augment(pixels: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    mirror = (torch.rand(len(pixels)) < 0.5) & flip
    pixels = torch.where(mirror[:, None, None, None], pixels.flip(-1), pixels)
    side = pixels.shape[-1]
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    return pad(pixels, [SHIFT] * 4, value=255)[:, :, down : down + side, right : right + side]


def _accuracy(network: FeatureNetwork, pixels: torch.Tensor, classes: torch.Tensor) -> float:
    return round(float((embed(network, pixels)[1].argmax(1) == classes.numpy()).mean()), 4)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    network, about = train()
    (HERE / "classifier.safetensors").write_bytes(dump(network, about))
    logging.info("%s", about)


if __name__ == "__main__":
    main()
