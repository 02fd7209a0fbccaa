"""A release as one file that runs without gan-dist: torch.export's archive, or ONNX.

The content is made in memory and tested there; it is written only if its images are the generator's.
"""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from gan_dist.artifacts.records import is_score
from gan_dist.core import rng, storage
from gan_dist.core.errors import GanDistError, NonFiniteError
from gan_dist.core.host import own_version
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.core.storage.redaction import split_query
from gan_dist.models.generator import Release
from gan_dist.models.mixture import Mixture
from gan_dist.models.release import load

TRACED = 2
"""Number of latents for tracing the graph. torch.export would treat 1 as a constant."""
TESTED = (1, 2, 5)
"""Numbers of latents for testing the file."""
TOLERANCE = 1e-3
"""Largest allowed difference, over the largest absolute value of the generator's images.

Sums in another order make 1e-6 to 1e-5 in networks of some million parameters; as small a fault as another
epsilon in batch norm (1e-3 for 1e-5) makes 7e-3. A grey level is 8e-3 of the range of images."""
LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file: protobuf's limit, less 16 MiB for the graph."""
OPSET = 18
"""Version of ONNX's operators: the oldest of torch's exporter, for older runtimes."""
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
DESCRIPTION = "gan-dist.json"
"""File in torch.export's archive with the description of the generator."""

Run = Callable[[Sequence[Tensor]], Tensor]
"""Runs an exported file: from latents, and labels if it is conditional, to images."""


@dataclass(frozen=True)
class Exported:
    """An exported file."""

    bytes: int
    max_abs_diff: float
    """Largest difference between its images and the generator's, in float32 on the CPU."""
    release: Release


def export(source: str, to: str, *, trust: Collection[str] = ()) -> Exported:
    """Write a generator's graph and weights as one file, after a test of its content.

    Inputs are `latents`, float32 (n, latent_dim) from N(0, 1), and for a conditional generator `labels`,
    int64 (n,); the output is `images`, float32 (n, C, H, W), for any n, in which -1 is black and 1 is white.
    Values beyond are to be clamped where the description says so. The graph runs on any device. The file also
    has a description of the generator: see `describe`.

    Args:
        source: A release, a checkpoint, or a run's folder.
        to: The file, a path or URI that ends in `.pt2` (torch.export, which other versions of torch may not
            read) or in `.onnx`; an existing file is replaced.
        trust: As in `gan_dist.load`.

    Raises:
        GanDistError: another ending, missing packages for ONNX, more weights than fit into an ONNX file, or
            images that differ from the generator's; nothing is written then.
        NonFiniteError: the generator's images are not finite.
        CheckpointError: `source` is none of these, or damaged.
        StorageError: `to` cannot be written; this is checked first.
    """
    onnx = file_type(to) == ".onnx"
    if onnx:
        _require_onnx(to)
    storage.require_writable(to)
    release = load(source, trust=trust)
    if onnx:
        _require_room(release, to)
    cases = _test_cases(release, source)
    with warnings.catch_warnings(action="ignore"):  # the exporters' remarks on their own future
        program = _traced(release)
        write, load_run = (_onnx, _run_onnx) if onnx else (_archive, _run_archive)
        content = write(program, describe(release))
        difference = _difference(load_run(content), cases)
    limit = TOLERANCE * max(float(images.abs().max()) for _, images in cases)
    if not difference <= limit:
        raise GanDistError(
            f"--to {to}: images of what torch {torch.__version__} exported differ from the generator's by "
            f"{difference:.2g}, more than {limit:.2g} ({TOLERANCE:g} of their largest value), and it was not "
            f"written",
            f"use {'.pt2' if onnx else '.onnx'}, or another version of torch",
        )
    storage.write_bytes(to, content)
    return Exported(len(content), difference, release)


def file_type(to: str) -> str:
    """Return the ending of a path or URI, `.pt2` or `.onnx`. Raises GanDistError for another ending."""
    for suffix in (".pt2", ".onnx"):
        if split_query(to)[0].lower().endswith(suffix):
            return suffix
    raise GanDistError(
        f"--to {to} has no known ending", "end the name in .pt2 (for torch.export) or in .onnx (for ONNX)"
    )


def describe(release: Release) -> dict[str, Any]:
    """Return the description in an exported file: JSON in `gan-dist.json`, or ONNX's metadata_props."""
    shape, config, generator = release.shape, release.config, release.generator
    return {
        "name": config.name,
        "architecture": config.model.name,
        **({"mixture": generator.weights} if isinstance(generator, Mixture) else {}),
        "latent_dim": release.latent_dim,
        "resolution": shape.resolution,
        "height": shape.size.height,
        "width": shape.size.width,
        "channels": shape.channels,
        "classes": shape.classes,
        "range": [-1, 1],
        "clamp": not release.bounded,
        "measured": {key: value for key, value in release.record.items() if is_score(key)},
        "torch": torch.__version__,
        "gan_dist": own_version(),
    }


def usage(release: Release, to: str) -> str:
    """Return Python code that makes 16 images with an exported file, without gan-dist."""
    place = PurePath(split_query(to)[0]).name if "://" in to else to
    name = json.dumps(place, ensure_ascii=False)  # JSON's escapes of what is not ASCII are not Python's
    latent_dim, classes = release.latent_dim, release.shape.classes
    if file_type(to) == ".pt2":
        labels = f", torch.randint({classes}, (16,))" if classes else ""
        return (
            "import torch\n"
            f"generator = torch.export.load({name}).module()  # .to('cuda') moves it\n"
            f"images = generator(torch.randn(16, {latent_dim}){labels})"
        )
    labels = f', "labels": np.random.randint({classes}, size=16, dtype="int64")' if classes else ""
    return (
        "import numpy as np, onnxruntime\n"
        f'session = onnxruntime.InferenceSession({name}, providers=["CPUExecutionProvider"])\n'
        f'latents = np.random.randn(16, {latent_dim}).astype("float32")\n'
        f'images = session.run(None, {{"latents": latents{labels}}})[0]'
    )


def _require_onnx(to: str) -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GanDistError(
            f"--to {to} needs {', '.join(missing)}", 'pip install "gan-dist[onnx]", or end the name in .pt2'
        )


def _require_room(release: Release, to: str) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in release.generator.state_dict().values())
    if size > LARGEST_ONNX:
        raise GanDistError(
            f"--to {to}: the weights are {size:,} bytes, and an ONNX file holds {LARGEST_ONNX:,} beside its "
            "graph",
            "end the name in .pt2",
        )


@torch.no_grad()
def _test_cases(release: Release, source: str) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    cases = []
    for count in TESTED:
        inputs = _inputs(release, count)
        images = release.generator(*inputs)
        if not images.isfinite().all():
            raise NonFiniteError(f"{source}: the generator's images are not finite", "export an earlier one")
        cases.append((inputs, images))
    return cases


def _inputs(release: Release, count: int) -> tuple[Tensor, ...]:
    """Return latents, and labels if it is conditional: the last classes, the likeliest to be missing."""
    latents = rng.normal((count, release.latent_dim), 0, "export", count)
    classes = release.shape.classes
    return (latents, (classes - 1 - torch.arange(count)) % classes) if classes else (latents,)


def _traced(release: Release) -> torch.export.ExportedProgram:
    """Return the generator's graph, in float32 and for any number of latents."""
    inputs = _inputs(release, TRACED)
    count = torch.export.Dim("n", min=1)
    free = {name: {0: count} for name in _names(inputs)}
    program = torch.export.export(release.generator, inputs, dynamic_shapes=free)
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        # Each change of type has an assertion that the maps are on the device of the tracing, a CPU.
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        node.meta.pop("stack_trace", None)  # paths on this machine
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _names(inputs: Sequence[Tensor]) -> tuple[str, ...]:
    return ("latents", "labels")[: len(inputs)]


def _archive(program: torch.export.ExportedProgram, described: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={DESCRIPTION: to_json(described).decode()})
    return file.getvalue()


def _run_archive(content: bytes) -> Run:
    # torch.export.load can run code from its file; this one was made by this process.
    module = torch.export.load(io.BytesIO(content)).module()  # noqa: TID251
    return lambda inputs: module(*inputs)


def _onnx(program: torch.export.ExportedProgram, described: dict[str, Any]) -> bytes:
    names = _names(program.example_inputs[0])
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=names,
        output_names=["images"],
        dynamic_shapes={name: {0: "n"} for name in names},
    )
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}
    exported.model.metadata_props.update(texts)
    content: bytes = exported.model_proto.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(_names(inputs), inputs, strict=True)}
        return torch.from_numpy(session.run(["images"], given)[0])

    return run


@torch.no_grad()
def _difference(run: Run, cases: Sequence[tuple[Sequence[Tensor], Tensor]]) -> float:
    # Not Python's max, which ignores NaN.
    return float(torch.stack([(run(inputs) - images).abs().max() for inputs, images in cases]).max())
