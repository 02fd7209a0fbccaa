"""Whether Kubernetes with KubeRay would take a document, as an API server judges with strict validation."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.jsonschema import DRAFT202012

KUBERAY = Path(__file__).with_name("v1.7.0.yaml")
KUBERNETES = "1.37"


@functools.cache
def _registry() -> Registry[Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
    contents = {
        "kuberay": yaml.safe_load(KUBERAY.read_text()),
        "k8s": json.loads((folder / "_definitions.json").read_text()),
    }
    return Registry().with_resources(
        (name, DRAFT202012.create_resource(schema)) for name, schema in contents.items()
    )


def problem(document: dict[str, Any]) -> str | None:
    """Return what is wrong with a document, and where; None where it would be taken."""
    if document["apiVersion"] != "ray.io/v1":
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as refusal:
            return str(refusal)
        return None
    schema = {"$ref": f"kuberay#/$defs/{document['kind']}"}
    error = best_match(Draft202012Validator(schema, registry=_registry()).iter_errors(document))
    return f"{error.json_path}: {error.message}" if error else None
