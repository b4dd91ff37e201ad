"""Trains a feature network on a user's own images, by their labels or, without labels, by telling images
apart.

Without labels it is SimCLR (Chen et al. 2020, arXiv 2002.05709): two altered views of one image should have
features that are closer to each other than to those of other images. Its classes, which the Inception score
needs, are then clusters of features (Ward's, as for the cluster entropy). Contributors are never used:
features that tell contributors apart would measure who gave an image, not what it shows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize

from apportion.properties.cluster_entropy import ward_centroids
from apportion.properties.network import FEATURES, FeatureNetwork, embed, reduced

VERSION = 1
"""Of how a network is trained; part of the address of each."""
SIDE = 32
"""Larger images are reduced to this side before they are embedded."""
STEPS, BATCH, RATE, DECAY = 400, 96, 3e-3, 0.05
SMOOTHING, PROJECTED, TEMPERATURE = 0.1, 64, 0.2
HELD_OUT_IN = 5
CLUSTERS, IMAGES_PER_CLUSTER, MOST_CLUSTERED = 10, 8, 2000
"""Without labels there are ten classes, or fewer where there are few images; more images than the last number
make clusters slow and no better."""
VIEWS, HEAD_STEPS, HEAD_RATE = 4, 300, 1e-2


class Trained(NamedTuple):
    """A network, and what its header says of it."""

    network: FeatureNetwork
    about: dict[str, Any]


def train_network(
    pixels: NDArray[np.uint8],
    flip: NDArray[np.bool_],
    labels: Sequence[str] | None,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Trained:
    """A network for images uint8 (k, 3, side, side); those of `flip` (k,) may be mirrored. labels: the class
    of each, of two classes or more; None trains without. Every fifth image is held out, and the header says
    how the network does on these. The same images and seed give the same network on the same machine,
    whatever the random state of the caller. tick: called after each of STEPS steps. The computation is on the
    CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = reduced(torch.from_numpy(pixels).float(), SIDE)
        order = torch.randperm(len(images))
        held_out, kept = order[::HELD_OUT_IN], order[torch.arange(len(order)) % HELD_OUT_IN != 0]
        mirrored = torch.from_numpy(flip)
        if labels is None:
            return _by_views(images, mirrored, kept, held_out, tick)
        names, classes = np.unique(np.array(labels), return_inverse=True)
        return _by_classes(images, mirrored, torch.from_numpy(classes), names.tolist(), kept, held_out, tick)


def _by_classes(
    images: torch.Tensor,
    flip: torch.Tensor,
    classes: torch.Tensor,
    names: list[str],
    kept: torch.Tensor,
    held_out: torch.Tensor,
    tick: Callable[[], object],
) -> Trained:
    network = FeatureNetwork(len(names), SIDE)

    def loss(index: torch.Tensor) -> torch.Tensor:
        logits = network(_view(images[index], flip[index]))[1]
        return cross_entropy(logits, classes[index], label_smoothing=SMOOTHING)

    _fit(network, loss, kept, tick)
    right = embed(network, images[held_out])[1].argmax(1) == classes[held_out].numpy()
    about = {
        "classes": names,
        "held_out_accuracy": round(float(right.mean()), 4),
        "held_out_images": len(held_out),
        "trained_on": f"{len(images)} images of this round, by {len(names)} labels",
    }
    return Trained(network, about)


def _by_views(
    images: torch.Tensor,
    flip: torch.Tensor,
    kept: torch.Tensor,
    held_out: torch.Tensor,
    tick: Callable[[], object],
) -> Trained:
    network = FeatureNetwork(0, SIDE)
    projector = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, PROJECTED))
    both = nn.ModuleList([network, projector])

    def projected(index: torch.Tensor) -> torch.Tensor:
        views = torch.cat([_view(images[index], flip[index]) for _ in range(2)])
        return normalize(projector(network(views)[0]))

    _fit(both, lambda index: _contrast(projected(index)), kept, tick)
    with torch.no_grad():
        one, other = projected(held_out[:BATCH]).chunk(2)
    found = (one @ other.T).argmax(1) == torch.arange(len(one))
    clusters = _fit_clusters(network, images, flip, torch.cat([kept, held_out])[:MOST_CLUSTERED])
    about = {
        "classes": [f"cluster {i}" for i in range(clusters)],
        "held_out_recognised": round(float(found.float().mean()), 4),
        "held_out_images": len(one),
        "trained_on": f"{len(images)} images of this round, without labels (SimCLR; its classes are "
        f"{clusters} clusters of its features)",
    }
    return Trained(network, about)


def _fit_clusters(
    network: FeatureNetwork, images: torch.Tensor, flip: torch.Tensor, some: torch.Tensor
) -> int:
    """Gives a network the clusters of its features as classes, which altered views should keep; returns how
    many."""
    features = embed(network, images[some])[0]
    clusters = min(CLUSTERS, max(2, len(some) // IMAGES_PER_CLUSTER), len(np.unique(features, axis=0)))
    centroids = ward_centroids(features, clusters)
    classes = torch.from_numpy(cdist(features, centroids).argmin(axis=1)).repeat(VIEWS)
    views = torch.cat([_view(images[some], flip[some]) for _ in range(VIEWS)])
    seen = torch.from_numpy(embed(network, views)[0]).float()
    network.head = head = nn.Linear(FEATURES, clusters)
    optimiser = torch.optim.AdamW(head.parameters(), lr=HEAD_RATE, weight_decay=DECAY)
    for _ in range(HEAD_STEPS):
        loss = cross_entropy(head(seen), classes, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    return clusters


def _contrast(projected: torch.Tensor) -> torch.Tensor:
    """The loss of SimCLR (NT-Xent), of the two views (2k, d) of k images: the views of image i are i and
    k + i."""
    k = len(projected) // 2
    similarity = projected @ projected.T / TEMPERATURE
    similarity.fill_diagonal_(-torch.inf)
    return cross_entropy(similarity, torch.arange(2 * k).roll(k))


def _fit(
    module: nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    kept: torch.Tensor,
    tick: Callable[[], object],
) -> None:
    """Minimises the loss of random batches of the kept images. Leaves the module in evaluation mode."""
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        value = loss(kept[torch.randperm(len(kept))[:BATCH]])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        tick()
    module.eval()


def _view(images: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Altered copies of float images (k, 3, side, side): another part and size of each, mirrored where that
    is allowed, in other colours, and noisy, because generated images are noisy too."""
    k = len(images)
    scale = 0.6 + 0.4 * torch.rand(k)
    mirror = torch.where((torch.rand(k) < 0.5) & flip, -1.0, 1.0)
    shift = (2 * torch.rand(k, 2) - 1) * (1 - scale)[:, None]
    zero = torch.zeros(k)
    placed = torch.stack([scale * mirror, zero, shift[:, 0], zero, scale, shift[:, 1]], dim=1).view(k, 2, 3)
    grid = affine_grid(placed, list(images.shape), align_corners=False)
    views = grid_sample(images, grid, padding_mode="border", align_corners=False)
    grey = views.mean(1, keepdim=True)
    saturation, contrast, brightness = (
        (low + (high - low) * torch.rand(k)).view(k, 1, 1, 1)
        for low, high in ((0.4, 1.4), (0.7, 1.3), (-25.0, 25.0))
    )
    views = grey + saturation * (views - grey)
    middle = views.mean((1, 2, 3), keepdim=True)
    views = middle + contrast * (views - middle) + brightness
    noise = 25 * torch.rand(k, 1, 1, 1) * torch.randn(views.shape)
    return (views + noise).clamp(0, 255)
