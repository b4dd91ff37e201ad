"""A pipeline as a cluster takes it: KFP's intermediate representation (IR), or resources of Kubernetes, named by a hash of the content."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec import pipeline_spec_pb2

from apportion.config import digest


@dataclass(frozen=True)
class Package:
    """A compiled pipeline: the file of its IR, and what identifies it."""

    name: str
    path: Path
    content: str  # its hash

    @property
    def version(self) -> str:
        """Versions cannot be changed once they are registered, so that another content needs another name."""
        return f"{self.name}-{self.content[:12]}"


def pack(pipeline: GraphComponent, folder: Path) -> Package:
    """Writes the IR of a pipeline into a folder."""
    path = folder / f"{pipeline.name.removeprefix('apportion-')}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return Package(
        pipeline.name, path, content(json_format.MessageToDict(part) for part in (pipeline.pipeline_spec, pipeline.platform_spec))
    )


def manifest(pipeline: GraphComponent, package: Package, path: Path) -> None:
    """Writes the resources `Pipeline` and `PipelineVersion`, which KFP reads in its Kubernetes-native mode."""
    options = KubernetesManifestOptions(
        pipeline_name=package.name, pipeline_version_name=package.version, include_pipeline_manifest=True
    )  # fmt: skip
    compiler.Compiler().compile(pipeline, str(path), kubernetes_manifest_options=options, kubernetes_manifest_format=True)


def content(documents: Iterable[dict[str, Any]]) -> str:
    """Hash of a pipeline and what is said for its platform, without the version of the SDK that wrote it.

    Both are read as KFP reads them, so that it is the same from the file and from what a server made of it; what only a newer KFP knows
    is passed over. Raises json_format.Error where they are something else.
    """
    kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
    told = [json_format.ParseDict(text, kind(), ignore_unknown_fields=True) for text, kind in zip(documents, kinds, strict=False)]
    told[0].sdk_version = ""
    return digest([json_format.MessageToDict(part) for part in told])
