"""Training images in a store: one object per contributor's data, and the manifest that says who gave
which."""

import io
import json
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

from apportion.config.hashing import digest
from apportion.datasets.contribution import Contribution
from apportion.diffusion.images import TrainingImages
from apportion.errors import Damaged
from apportion.records import Contributor, Manifest
from apportion.safetensors import header
from apportion.store import Store
from apportion.store.layout import images_key, manifest_key


def manifest_of(contributions: Sequence[Contribution]) -> Manifest:
    """The manifest of contributions, in the order of names."""
    rows = [
        Contributor(name=c.name, data=c.data_hash, samples=len(c), joined=c.joined) for c in contributions
    ]
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
        contributors = [
            Contributor(name=name, data=data, samples=len(hashes), joined=joined)
            for (name, data, joined), hashes in samples.items()
        ]
        inconsistent = [name for (name, data, _), hashes in samples.items() if digest(sorted(hashes)) != data]
    except (
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # OSError: a damaged footer
        raise Damaged(
            f"found no manifest in {where}, expected a parquet table of samples: {error}; it is left as it is"
        ) from error
    manifest = Manifest(contributors=tuple(sorted(contributors, key=lambda row: row.name)))
    if inconsistent or manifest.id != manifest_id or len(set(manifest.names)) < manifest.n:
        about = (
            f" with samples of {inconsistent} that do not match the hash of their data"
            if inconsistent
            else ""
        )
        raise Damaged(
            f"found manifest {manifest.id} in {where}{about}, expected {manifest_id}; it is left as it is"
        )
    return manifest


def read_contributions(store: Store, manifest: Manifest) -> Iterator[Contribution]:
    """The stored contribution of each contributor of a manifest, one at a time, without labels."""
    titles: dict[str, list[str]] = defaultdict(list)
    for row in _rows(store.get(manifest_key(manifest.id))):
        titles[row["contributor"]].append(row["title"])
    for contributor in manifest.contributors:
        images = _unpack(store, contributor.data)
        yield Contribution(
            name=contributor.name,
            pixels=images.pixels.transpose(0, 2, 3, 1),
            flip=images.flip,
            titles=tuple(titles[contributor.name]),
            joined=contributor.joined,
        )


def outdated(store: Store, contributions: Sequence[Contribution]) -> list[str]:
    """Contributors whose labels or date of joining differ in the stored manifest: they are not part of its
    id, so the stored ones stay."""
    stored = _about(_rows(store.get(manifest_key(manifest_of(contributions).id))))
    current = _about(_table_rows(contributions))
    return [name for name, rows in current.items() if rows != stored.get(name)]


def _about(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[str, ...]]]:
    """By contributor: sample, label and date of joining, as text, sorted."""
    by_contributor: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for row in rows:
        cells = tuple(str(row.get(column)) for column in ("sample", "label", "joined"))
        by_contributor[row["contributor"]].append(cells)
    return {name: sorted(cells) for name, cells in by_contributor.items()}


def training_images(store: Store, data: Sequence[str], resolution: int) -> TrainingImages:
    """All images of the data with these hashes, in the order of the hashes, so that equal data give equal
    models."""
    parts = [_unpack(store, item) for item in sorted(data)]
    if not parts:
        return TrainingImages(np.empty((0, 3, resolution, resolution), np.uint8), np.empty(0, np.bool_))
    conditions = [part.condition for part in parts if part.condition is not None]
    condition = (
        tuple(text for texts in conditions for text in texts) if len(conditions) == len(parts) else None
    )
    pixels = np.concatenate([part.pixels for part in parts])
    return TrainingImages(pixels, np.concatenate([part.flip for part in parts]), condition)


def _pack(contribution: Contribution) -> bytes:
    pixels = np.ascontiguousarray(contribution.pixels.transpose(0, 3, 1, 2))
    metadata = {"condition": json.dumps(contribution.label)} if contribution.conditioned else None
    return arrays_to_bytes({"pixels": pixels, "flip": contribution.flip}, metadata=metadata)


def _unpack(store: Store, data: str) -> TrainingImages:
    key = images_key(data)
    stored, where = store.get(key), store.where(key)
    try:
        arrays = arrays_from_bytes(stored)
        text = header(stored).get("condition")
        condition = None if text is None else tuple(map(str, json.loads(text)))
        return TrainingImages(arrays["pixels"], arrays["flip"], condition)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Damaged(
            f"found no training images in {where}, expected safetensors of pixels and flip: {error}"
        ) from error


def _rows(table: bytes) -> list[dict[str, Any]]:
    """The rows of a table. It is read in this thread alone: a thread pool of pyarrow that is still starting
    when a short process ends aborts the process, and pre_buffer starts one too."""
    rows: list[dict[str, Any]] = (
        pq.ParquetFile(io.BytesIO(table), pre_buffer=False).read(use_threads=False).to_pylist()
    )
    return rows


def _table_rows(contributions: Sequence[Contribution]) -> list[dict[str, Any]]:
    """One row per sample, in the order of contributors and sample hashes."""
    return [
        {
            "contributor": c.name,
            "data": c.data_hash,
            "joined": c.joined,
            "sample": sample,
            "title": title,
            "label": label,
        }
        for c in sorted(contributions, key=lambda c: c.name)
        for sample, title, label in zip(c.sample_hashes, c.titles, c.label or [None] * len(c), strict=True)
    ]


def _table(contributions: Sequence[Contribution]) -> bytes:
    columns = ("contributor", "data", "joined", "sample", "title", "label")
    schema = pa.schema([(name, pa.string()) for name in columns])
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(_table_rows(contributions), schema=schema), buffer, compression="zstd"
    )
    return buffer.getvalue()
