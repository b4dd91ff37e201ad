"""A compiled pipeline: KFP's intermediate representation (IR), or resources of Kubernetes, named by a hash of
the content."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec import pipeline_spec_pb2

from apportion.config.hashing import digest


@dataclass(frozen=True)
class Package:
    """A compiled pipeline: the file of its IR, and the hash of its content."""

    name: str
    path: Path
    content: str

    @property
    def version(self) -> str:
        """The name of its version. KFP cannot change a version that is registered, so each content has its
        own name."""
        return f"{self.name}-{self.content[:12]}"


def pack(pipeline: GraphComponent, folder: Path) -> Package:
    """Writes the IR of a pipeline into a folder."""
    path = folder / f"{pipeline.name.removeprefix('apportion-')}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    documents = [json_format.MessageToDict(part) for part in (pipeline.pipeline_spec, pipeline.platform_spec)]
    return Package(pipeline.name, path, content(documents))


def manifest(pipeline: GraphComponent, package: Package, path: Path) -> None:
    """Writes the resources `Pipeline` and `PipelineVersion`, which KFP reads in its Kubernetes-native
    mode."""
    options = KubernetesManifestOptions(
        pipeline_name=package.name, pipeline_version_name=package.version, include_pipeline_manifest=True
    )
    compiler.Compiler().compile(
        pipeline, str(path), kubernetes_manifest_options=options, kubernetes_manifest_format=True
    )


def content(documents: Iterable[dict[str, Any]]) -> str:
    """Hash of a pipeline and its options for Kubernetes, without the version of the SDK that wrote them.

    Both documents are parsed as KFP parses them, so the hash is the same for the file and for what a server
    returns of it. Fields that only a newer KFP knows are ignored. Raises json_format.Error where a document
    is something else.
    """
    kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
    messages = [
        json_format.ParseDict(document, kind(), ignore_unknown_fields=True)
        for document, kind in zip(documents, kinds, strict=False)
    ]
    messages[0].sdk_version = ""
    return digest([json_format.MessageToDict(message) for message in messages])
