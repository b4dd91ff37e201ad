"""Training images in a store: one object per contributor's data, and the manifest that says who gave which."""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load as arrays_from_bytes
from safetensors.numpy import save as arrays_to_bytes

from apportion.config import digest
from apportion.datasets.contribution import Contribution
from apportion.diffusion.images import Images
from apportion.errors import Damaged
from apportion.records import Contributor, Manifest
from apportion.store import Store


def images_key(data: str) -> str:
    return f"images/{data}.safetensors"


def manifest_key(manifest: str) -> str:
    return f"manifests/{manifest}.parquet"


def manifest_of(contributions: Sequence[Contribution]) -> Manifest:
    rows = [Contributor(name=c.name, data=c.data_hash, samples=len(c), joined=c.joined) for c in contributions]
    return Manifest(contributors=tuple(sorted(rows, key=lambda row: row.name)))


def write(store: Store, contributions: Sequence[Contribution]) -> Manifest:
    """Stores the images of every contributor and the manifest, each once."""
    manifest = manifest_of(contributions)
    for contribution in contributions:
        store.ensure(images_key(contribution.data_hash), partial(_pack, contribution))
    store.ensure(manifest_key(manifest.id), lambda: _table(contributions))
    return manifest


def read_manifest(store: Store, manifest_id: str) -> Manifest:
    """Raises Damaged where the table is not the manifest of that id."""
    where = store.where(manifest_key(manifest_id))
    try:
        samples: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
        for row in _rows(store.get(manifest_key(manifest_id))):
            samples[row["contributor"], row["data"], row["joined"]].append(row["sample"])
        contributors = [Contributor(name=name, data=data, samples=len(of), joined=joined) for (name, data, joined), of in samples.items()]
        odd = [name for (name, data, _), of in samples.items() if digest(sorted(of)) != data]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:  # OSError: pyarrow's own, for a broken footer
        raise Damaged(f"found no manifest in {where}, expected a parquet table of samples: {error}; it is left as it is") from error
    manifest = Manifest(contributors=tuple(sorted(contributors, key=lambda row: row.name)))
    if odd or manifest.id != manifest_id or len(set(manifest.names)) < manifest.n:
        about = f" with samples of {odd} that are not those of their data" if odd else ""
        raise Damaged(f"found manifest {manifest.id} in {where}{about}, expected {manifest_id}; it is left as it is")
    return manifest


def read_contributions(store: Store, manifest: Manifest) -> Iterator[Contribution]:
    """What `write` stored of each contributor of a manifest, one by one."""
    titles: dict[str, list[str]] = defaultdict(list)
    for row in _rows(store.get(manifest_key(manifest.id))):
        titles[row["contributor"]].append(row["title"])
    for who in manifest.contributors:
        images = _unpack(store, who.data)
        pixels = images.pixels.transpose(0, 2, 3, 1)
        yield Contribution(who.name, pixels, images.flip, tuple(titles[who.name]), who.joined)


def outdated(store: Store, contributions: Sequence[Contribution]) -> list[str]:
    """Contributors whose labels or date of joining the stored manifest has otherwise: they are no part of its id, and it stays."""
    stored = _about(_rows(store.get(manifest_key(manifest_of(contributions).id))))
    return [name for name, rows in _about(_table_rows(contributions)).items() if rows != stored.get(name)]


def _about(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[str, ...]]]:
    """By contributor: sample, label and date of joining, as text, sorted."""
    found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for row in rows:
        found[row["contributor"]].append(tuple(str(row.get(column)) for column in ("sample", "label", "joined")))
    return {name: sorted(about) for name, about in found.items()}


def training_images(store: Store, data: Sequence[str], resolution: int) -> Images:
    """All images of these contributors' data (data hashes), in the order of the hashes: equal data train equal models."""
    parts = [_unpack(store, item) for item in sorted(data)]
    if not parts:
        return Images(np.empty((0, 3, resolution, resolution), np.uint8), np.empty(0, np.bool_))
    return Images(np.concatenate([part.pixels for part in parts]), np.concatenate([part.flip for part in parts]))


def _pack(contribution: Contribution) -> bytes:
    pixels = np.ascontiguousarray(contribution.pixels.transpose(0, 3, 1, 2))
    return arrays_to_bytes({"pixels": pixels, "flip": contribution.flip})


def _unpack(store: Store, data: str) -> Images:
    where = store.where(images_key(data))
    try:
        arrays = arrays_from_bytes(store.get(images_key(data)))
        return Images(arrays["pixels"], arrays["flip"])
    except (SafetensorError, KeyError) as error:
        raise Damaged(f"found no training images in {where}, expected safetensors of pixels and flip: {error}") from error


def _rows(table: bytes) -> list[dict[str, Any]]:
    """No thread but this one: a pool that is still starting when a short process ends aborts it, and pre_buffer starts one too."""
    rows: list[dict[str, Any]] = pq.ParquetFile(io.BytesIO(table), pre_buffer=False).read(use_threads=False).to_pylist()
    return rows


def _table_rows(contributions: Sequence[Contribution]) -> list[dict[str, Any]]:
    """One row per sample, in the order of contributors and sample hashes."""
    return [
        {"contributor": c.name, "data": c.data_hash, "joined": c.joined, "sample": sample, "title": title, "label": label}
        for c in sorted(contributions, key=lambda c: c.name)
        for sample, title, label in zip(c.sample_hashes, c.titles, c.label or [None] * len(c), strict=True)
    ]


def _table(contributions: Sequence[Contribution]) -> bytes:
    schema = pa.schema([(name, pa.string()) for name in ("contributor", "data", "joined", "sample", "title", "label")])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_table_rows(contributions), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
