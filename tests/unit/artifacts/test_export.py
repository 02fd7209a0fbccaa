"""A generator as one file: it makes the same images without gan-dist, or it is not written."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensorMode
from typer.testing import CliRunner

import gan_dist
from gan_dist import models
from gan_dist.artifacts import export
from gan_dist.cli import app
from gan_dist.config import load_config, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, NonFiniteError
from gan_dist.models import release
from gan_dist.models.generator import ImageShape, Release
from tests.support.releases import mixture_of

LATENT_DIM, CLASSES, RESOLUTION = 6, 3, 16
VARIANTS = {
    "dcgan": ["model.name=dcgan"],
    "resnet": ["model.name=resnet"],
    "attention": ["model.name=resnet", "model.attention=true"],
    "r3gan": ["model.name=r3gan", "model.blocks=2"],
    "stylegan2": ["model.name=stylegan2", "model.settings.w_dim=8"],
    "fastgan": ["model.name=fastgan"],
}
MORE = {(name, False) for name in VARIANTS if name != "attention"} | {("attention", True)}
"""Exported at length: what they consist of, the others have too."""
CASES = [
    pytest.param(variant, conditional, marks=[pytest.mark.soak] if (variant, conditional) in MORE else [])
    for variant in VARIANTS
    for conditional in (False, True)
]
every_format = pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
every_conditioning = pytest.mark.parametrize("conditional", [False, True])


def released(folder: Path, variant: str = "resnet", *, conditional: bool = False, scale: float = 0.1) -> str:
    """Write the release of a generator in which no weight is 0 or 1 and every statistic has moved.

    A conditional one makes 1 channel, another one 3. `scale` is how far its weights are moved.
    """
    shape = ImageShape(RESOLUTION, channels=1 if conditional else 3, classes=CLASSES if conditional else 0)
    sizes = [f"model.latent_dim={LATENT_DIM}", "model.width=4", "model.max_width=8"]
    settings = [*VARIANTS[variant], *sizes, f"model.conditional={str(conditional).lower()}"]
    config = load_config("digits", ["name=tiny", f"storage={folder}", *settings])
    generator, _ = models.build(config.model, ImageShape(RESOLUTION, shape.channels, CLASSES))
    numbers = torch.Generator().manual_seed(0)
    models.initialise(generator, numbers)
    with torch.no_grad():
        for weights in generator.parameters():
            weights.add_(scale * torch.randn(weights.shape, generator=numbers))
        generator(*inputs(32, conditional))
    release.best_writer(
        config.run_uri,
        generator,
        shape=shape,
        config_yaml=to_yaml(config),
        record={"images": 64, "fd_digits": 12.5, "loss_g": 1.0},
        metric="fd_digits",
        picture=Image.new("L", (8, 8)),
    )()
    return config.run_uri


def inputs(count: int, conditional: bool) -> tuple[Tensor, ...]:
    latents = torch.randn(count, LATENT_DIM, generator=torch.Generator().manual_seed(count))
    return (latents, torch.arange(count) % CLASSES) if conditional else (latents,)


def opened(path: Path) -> Callable[..., Tensor]:
    """Return a file's generator: a function of latents, and of labels."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        named = zip(("latents", "labels"), given, strict=False)
        return torch.from_numpy(session.run(["images"], {name: one.numpy() for name, one in named})[0])

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A variant's file in a format, beside the run that it is of; each is made once."""

    @cache
    def make(suffix: str, variant: str = "resnet", *, conditional: bool) -> Path:
        folder = tmp_path_factory.mktemp("exported")
        to = folder / "out" / f"generator{suffix}"
        scale = 0.3 if variant == "fastgan" else 0.1  # so that its images are not grey
        source = released(folder, variant, conditional=conditional, scale=scale)
        told = export.export(source, str(to))
        assert list(to.parent.iterdir()) == [to]
        assert told.bytes == to.stat().st_size
        with torch.no_grad():
            largest = told.release.generator(*inputs(17, conditional)).abs().max().item()
        assert told.max_abs_diff < 1e-5 * max(1, largest)
        return to

    return make


@every_format
@pytest.mark.parametrize(("variant", "conditional"), CASES)
def test_a_file_makes_the_generators_images(
    variant: str, conditional: bool, suffix: str, exported: Callable[..., Path]
) -> None:
    to = exported(suffix, variant, conditional=conditional)
    generator, of_file = gan_dist.load(str(to.parents[1] / "tiny")).generator, opened(to)
    for count in (1, 2, 3, 17):
        given = inputs(count, conditional)
        expected, images = generator(*given), of_file(*given)
        assert (images.shape, images.dtype) == (expected.shape, torch.float32)
        assert expected.std() > 0.01
        assert (images - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert b"/gan_dist/" not in to.read_bytes()  # no paths of the machine that made it
    if isinstance(of_file, torch.nn.Module):
        require_movable(of_file, inputs(4, conditional))


def require_movable(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
    """Refuse an archive that names the device that it was made on."""
    # Tensors without contents: what an operator needs of its device is checked without one.
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = module.to("cuda")(*(tensor.to("cuda") for tensor in given))
        assert moved.device == torch.device("cuda", 0)


@every_conditioning
def test_an_onnx_file_is_whole_and_says_its_shapes(conditional: bool, exported: Callable[..., Path]) -> None:
    to = exported(".onnx", "resnet" if conditional else "attention", conditional=conditional)
    model = onnx.load_model_from_string(to.read_bytes())
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    session = onnxruntime.InferenceSession(to, providers=["CPUExecutionProvider"])
    declared = {one.name: (one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())}
    expected: dict[str, Any] = {"latents": ("tensor(float)", ["n", LATENT_DIM])}
    if conditional:
        expected["labels"] = ("tensor(int64)", ["n"])
    channels = 1 if conditional else 3
    assert declared == {**expected, "images": ("tensor(float)", ["n", channels, RESOLUTION, RESOLUTION])}


@every_format
def test_a_file_says_what_it_is(suffix: str, exported: Callable[..., Path]) -> None:
    to = exported(suffix, conditional=True)
    if suffix == ".pt2":
        extra = {"gan-dist.json": ""}
        torch.export.load(to, extra_files=extra)
        told = json.loads(extra["gan-dist.json"])
    else:
        texts = onnxruntime.InferenceSession(to).get_modelmeta().custom_metadata_map
        words = ("name", "architecture", "torch", "gan_dist")
        told = {key: text if key in words else json.loads(text) for key, text in texts.items()}
    assert told.pop("gan_dist")
    assert told == {
        "name": "tiny",
        "architecture": "resnet",
        "latent_dim": LATENT_DIM,
        "resolution": RESOLUTION,
        "height": RESOLUTION,
        "width": RESOLUTION,
        "channels": 1,
        "classes": CLASSES,
        "range": [-1, 1],
        "clamp": False,
        "measured": {"fd_digits": 12.5},
        "torch": torch.__version__,
    }


@pytest.mark.parametrize("conditional", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_the_lines_that_are_printed_run_without_gan_dist(
    conditional: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, programs = released(tmp_path, conditional=conditional), []
    for to in ("a 'b' 🙂.pt2", "a 'b' 🙂.ONNX"):
        result = CliRunner().invoke(app, ["export", source, "--to", to, "--json"], catch_exceptions=False)
        assert (result.exit_code, result.stderr) == (0, "")
        text, _, code = result.stdout.partition("run it with\n")
        *lines, last = code.splitlines()
        assert json.loads(last).items() >= {"out": to, "bytes": Path(to).stat().st_size}.items()
        assert json.loads(last)["max_abs_diff"] < 1e-5
        assert ("labels   int64 (n,), 0 to 2" in text) == conditional
        programs.append("\n".join(line.removeprefix("  ") for line in lines))
    # Each has names of its own, but for one import of torch both take.
    run = f"import sys\nfor program in {programs!r}:\n    names = {{}}\n    exec(program, names)\n"
    run += "    print(tuple(names['images'].shape), 'gan_dist' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert done.stdout == f"(16, {1 if conditional else 3}, 16, 16) False\n" * 2


@pytest.mark.parametrize("name", ["generator.pt", "generator", "out.onnx/", "s3://bucket/pt2?region=x.pt2"])
def test_another_ending_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(GanDistError, match=r"end the name in \.pt2 \(for torch\.export\) or in \.onnx"):
        export.export("nowhere", name)


def test_what_onnx_needs_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GanDistError) as error:
        export.export("nowhere", "generator.onnx")
    assert str(error.value) == (
        '--to generator.onnx needs onnx, onnxscript; pip install "gan-dist[onnx]", or end the name in .pt2'
    )


def test_weights_that_no_onnx_file_holds_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, to = released(tmp_path), tmp_path / "generator.onnx"
    size = sum(tensor.nbytes for tensor in gan_dist.load(source).generator.state_dict().values())
    monkeypatch.setattr(export, "LARGEST_ONNX", size - 1)
    with pytest.raises(GanDistError, match=rf"the weights are {size:,} bytes, and an ONNX file holds"):
        export.export(source, str(to))
    assert not to.exists()


@every_format
def test_a_file_that_makes_other_images_is_not_written(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, to = released(tmp_path), tmp_path / "out" / f"generator{suffix}"
    storage.write_bytes(str(to), b"an earlier one")
    traced = export._traced

    def slightly_wrong(of: Release) -> torch.export.ExportedProgram:
        generator = gan_dist.load(source).generator
        for layer in generator.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eps = 1e-3
        return traced(replace(of, generator=generator))

    monkeypatch.setattr(export, "_traced", slightly_wrong)
    with pytest.raises(
        GanDistError, match=r"differ from the generator's by .* and it was not written; use \."
    ):
        export.export(source, str(to))
    assert {file.name: file.read_bytes() for file in to.parent.iterdir()} == {to.name: b"an earlier one"}


def test_a_file_that_makes_no_numbers_once_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, to, read = released(tmp_path), tmp_path / "generator.pt2", export._run_archive

    def once(content: bytes) -> export.Run:
        run = read(content)
        return lambda given: run(given) * (math.nan if len(given[0]) == export.TESTED[-1] else 1)

    monkeypatch.setattr(export, "_run_archive", once)
    with pytest.raises(GanDistError, match="differ from the generator's by nan"):
        export.export(source, str(to))
    assert not to.exists()


def test_a_generator_that_makes_no_numbers_is_not_written(tmp_path: Path) -> None:
    to = tmp_path / "generator.pt2"
    with pytest.raises(NonFiniteError, match="the generator's images are not finite; export an earlier"):
        export.export(released(tmp_path, scale=float("inf")), str(to))
    assert not to.exists()


def test_from_a_bucket_and_into_it(bucket: str, tmp_path: Path) -> None:
    source, to = storage.join(bucket, "runs", "tiny"), storage.join(bucket, "out", "generator.pt2")
    storage.copy_tree(released(tmp_path), source)
    result = CliRunner().invoke(app, ["export", source, "--to", to], catch_exceptions=False)
    assert f"is in {to}: " in result.stdout
    assert 'torch.export.load("generator.pt2")' in result.stdout
    module = torch.export.load(io.BytesIO(storage.read_bytes(to))).module()
    given = inputs(3, conditional=False)
    assert torch.equal(module(*given), gan_dist.load(source).generator(*given))


@every_format
def test_a_file_of_a_mixture_has_all_its_members(suffix: str, tmp_path: Path) -> None:
    runs = [released(tmp_path / variant, variant) for variant in ("resnet", "dcgan")]
    source, to = mixture_of(runs, (0.7, 0.3), tmp_path / "mixture"), tmp_path / f"generator{suffix}"
    told = export.export(source, str(to))
    latents = torch.randn(40, LATENT_DIM + 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        images = told.release.generator(latents)
    assert torch.allclose(opened(to)(latents), images, atol=1e-4)
    assert export.describe(told.release)["mixture"] == (0.7, 0.3)
