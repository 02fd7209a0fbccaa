"""Networks of a user's own by import path: built, checked, refused, loaded only where they are trusted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gan_dist
from gan_dist import models
from gan_dist.artifacts.export import export
from gan_dist.config import ModelConfig, RunConfig, flatten, load_config, to_yaml
from gan_dist.core.errors import ConfigError, UntrustedCodeError
from gan_dist.core.import_path import require_trust
from gan_dist.core.storage.hashed_folder import to_json, write_folder
from gan_dist.models.checks import check_networks
from gan_dist.models.generator import ImageShape
from gan_dist.models.release import CONFIG, SHAPE, WEIGHTS, load, to_safetensors
from gan_dist.report.blocks import Table
from gan_dist.report.settings import settings
from tests import own_networks
from tests.own_networks import PerceptronDiscriminator, PerceptronGenerator, Perceptrons

OWN = "tests.own_networks:Perceptrons"
SHAPE_8 = ImageShape(8, 1, 3)


def model(name: str = OWN, **others: Any) -> ModelConfig:
    return ModelConfig(name=name, width=8, latent_dim=6, **others)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("packed", [1, 2])
def test_own_networks_pass_the_checks_and_are_functions_of_the_seed(conditional: bool, packed: int) -> None:
    config = model(conditional=conditional, pack=packed, settings={"depth": 3})
    check_networks(config, SHAPE_8, penalised=True)
    torch.manual_seed(7)
    untouched = torch.get_rng_state()
    first, again, other = (models.build_initial(config, SHAPE_8, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), untouched)
    for one, same, different in zip(first, again, other, strict=True):
        tensors = [list(each.state_dict().values()) for each in (one, same, different)]
        assert len(tensors[0]) == 8  # weights and biases of 3 hidden layers and the last one
        assert all(map(torch.equal, tensors[0], tensors[1]))
        assert not any(map(torch.equal, tensors[0], tensors[2]))


def test_own_networks_make_images_that_are_not_square() -> None:
    check_networks(model(), ImageShape("10x6", 4), penalised=True)


class OwnShape(PerceptronGenerator):
    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return super().synthesise(latents, labels)[:, :, 1:]


class Dropout(PerceptronDiscriminator):
    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return super().logits(nn.functional.dropout(images), labels)


class Coupled(PerceptronDiscriminator):
    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return super().logits(images - images.mean(0), labels)


class Reconstructing(PerceptronDiscriminator):
    """Decodes its logit to the mean of the image."""

    reconstruction = 0.5

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decode = nn.Linear(1, 1)

    def logits_and_errors(
        self, images: Tensor, labels: Tensor | None, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.logits(images, labels)
        decoded: Tensor = self.decode(logits[:, None])
        return logits, self.errors((decoded - images.mean((1, 2, 3))[:, None]).abs() + draws[:, None])

    def errors(self, found: Tensor) -> Tensor:
        return found.squeeze(1)


class WrongErrors(Reconstructing):
    def errors(self, found: Tensor) -> Tensor:
        return found


class NumPyWeights(PerceptronGenerator):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scale = nn.Parameter(torch.from_numpy(np.random.default_rng().normal(size=1)).float())

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return self.scale * super().synthesise(latents, labels)


class Unused(PerceptronGenerator):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.forgotten = nn.Linear(2, 2)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return values * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient * 2


class OnceDifferentiable(PerceptronDiscriminator):
    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        doubled: Tensor = Once.apply(images)
        return super().logits(doubled, labels).square()


class Failing(PerceptronGenerator):
    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return super().synthesise(latents[:, 1:], labels)


class NoModule(Perceptrons):
    def generator(self) -> Any:
        return "generator"


def variant(generator: type | None = None, discriminator: type | None = None) -> type[Perceptrons]:
    """Perceptrons with another generator or discriminator class."""

    class Variant(Perceptrons):
        def generator(self) -> Any:
            made: Any = super().generator()
            return generator(made.latent_dim, self.size, made.layers) if generator else made

        def discriminator(self) -> Any:
            made: Any = super().discriminator()
            return discriminator(self.size, made.pack, made.layers) if discriminator else made

    return Variant


WRONG = {
    "shape": (
        variant(OwnShape),
        r"the generator returned \(2, 1, 7, 8\) of torch.float32 for 2 inputs; return \(2, 1",
    ),
    "type": (NoModule, r"generator\(\) returned a str; derive it from gan_dist.Generator"),
    "random": (variant(None, Dropout), "the discriminator draws random numbers when it is called"),
    "coupled": (variant(None, Coupled), "the discriminator's output for an image depends on other images"),
    "weights": (variant(NumPyWeights), "two builds of the generator from one seed differ in scale"),
    "unused": (variant(Unused), "no gradient reaches forgotten.weight, forgotten.bias of the generator"),
    "once": (variant(None, OnceDifferentiable), "the discriminator cannot be differentiated twice"),
    "errors": (variant(None, WrongErrors), r"logits_and_errors returned \(2, 1\) of torch.float32"),
    "failing": (variant(Failing), r"failed when it was tried: RuntimeError: .*own_networks\.py:|linear\.py:"),
}


def test_a_discriminator_may_reconstruct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_networks, "Mine", variant(None, Reconstructing), raising=False)
    for pack in (1, 2):
        check_networks(model("tests.own_networks:Mine", pack=pack), SHAPE_8, penalised=True)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_networks_are_refused_by_name(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, words = WRONG[case]
    monkeypatch.setattr(own_networks, "Wrong", kind, raising=False)
    with pytest.raises(ConfigError, match=words) as caught:
        check_networks(model("tests.own_networks:Wrong"), SHAPE_8, penalised=True)
    assert caught.value.problems[0].what.startswith("model.name=tests.own_networks:Wrong")
    assert caught.value.problems[0].keys == ("model.name",)


def test_a_discriminator_that_is_differentiated_once_serves_without_penalties(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_networks, "Wrong", WRONG["once"][0], raising=False)
    check_networks(model("tests.own_networks:Wrong"), SHAPE_8, penalised=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.at_all:Networks", "importing nowhere.at_all failed .No module named 'nowhere'"),
        ("tests.own_networks:Absent", "tests.own_networks has no class Absent"),
        (
            "tests.own_networks:Settings",
            "does not derive from gan_dist.Architecture; write it as `class Settings",
        ),
    ],
)
def test_classes_that_are_none_are_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        models.build(model(name), SHAPE_8)


def test_a_module_that_fails_to_import_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("import math\n\nwidth = math.sqrt('9')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(
        ConfigError, match=r"importing half_written failed \(TypeError: .*half_written\.py:3\)"
    ):
        models.build(model("half_written:Networks"), SHAPE_8)


def test_a_module_that_ends_the_process_ends_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"importing leaving failed \(SystemExit: 0, .*leaving\.py:1\); mend it"
    ):
        models.build(model("leaving:Networks"), SHAPE_8)


def test_a_module_that_imports_what_is_absent_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needing.py").write_text("import nothing_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"install nothing_there on every machine, which needing imports"):
        models.build(model("needing:Networks"), SHAPE_8)


def test_settings_that_are_no_section_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Numbered", (Perceptrons,), {"Settings": 5})
    monkeypatch.setattr(own_networks, "Numbered", kind, raising=False)
    with pytest.raises(
        ConfigError, match=r"its Settings are 5, no class that derives from gan_dist\.Section"
    ):
        models.build(model("tests.own_networks:Numbered"), SHAPE_8)


def test_all_code_that_is_not_trusted_is_named_at_once() -> None:
    named = {"model.name": "a:A", "loss.name": "hinge", "data.augment": "b:B", "eval.extractor": "c:C"}
    with pytest.raises(UntrustedCodeError) as caught:
        require_trust(named, "a:A", "runs/one")
    assert str(caught.value) == (
        "runs/one needs code of its maker's own, data.augment=b:B, eval.extractor=c:C; if you know and trust "
        "it, allow it: --trust b:B --trust c:C, or gan_dist.load(..., trust=['b:B', 'c:C'])"
    )


def test_a_page_shows_settings_of_a_users_own() -> None:
    config = load_config("digits", [f"model.name={OWN}", "model.settings.depth=2"])
    changed, _ = settings(flatten(config))
    table = changed.blocks[0]
    assert isinstance(table, Table)
    assert ["model.settings.depth", "2", ""] in table.rows


def test_a_mapping_where_a_name_is_meant_is_called_one() -> None:
    with pytest.raises(ConfigError, match=r"model\.name must be one of dcgan, .*, not a mapping"):
        load_config("digits", ["model.name=perceptrons:"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"depth": 9},
            "model.settings.depth must be a whole number of at least 1 and of at most 4, not 9",
        ),
        (
            {"depth": "2"},
            "model.settings.depth must be a whole number of at least 1 and of at most 4, not '2'",
        ),
        (
            {"dept": 2},
            f"model.settings.dept: model.name={OWN} has no such setting; the nearest is depth",
        ),
        ({"x": 2}, f"model.settings.x: model.name={OWN} has no such setting; it has depth, slope"),
    ],
)
def test_settings_are_read_by_the_model_of_the_class(settings: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models.build(model(settings=settings), SHAPE_8)
    assert str(caught.value) == problem
    assert caught.value.problems[0].keys == (f"model.settings.{next(iter(settings))}",)


def test_built_in_networks_have_no_settings_that_are_not_theirs() -> None:
    with pytest.raises(
        ConfigError, match=r"model.settings.depth: model.name=dcgan has no such setting; it has none"
    ):
        models.build(model("dcgan", settings={"depth": 2}), SHAPE_8)


@pytest.fixture
def released(tmp_path: Path) -> str:
    config = load_config("digits", [f"model.name={OWN}", "model.width=8", "model.settings.depth=2"])
    generator, _ = models.build_initial(config.model, ImageShape(8, 1), 0)
    contents = {
        WEIGHTS: to_safetensors(generator.state_dict()),
        CONFIG: to_yaml(config).encode(),
        SHAPE: to_json(asdict(ImageShape(8, 1))),
    }
    write_folder(str(tmp_path / "release"), "release", contents.items())
    return str(tmp_path / "release")


def test_a_release_of_own_networks_loads_for_whoever_names_them(released: str) -> None:
    for trust in ((), "tests.own_networks:Others", ["tests.extractors:Means"]):
        with pytest.raises(UntrustedCodeError, match=f"needs code of its maker's own, model.name={OWN}"):
            gan_dist.load(released, trust=trust)
    for trust in (OWN, [OWN]):
        assert gan_dist.load(released, trust=trust).sample(3).shape == (3, 1, 8, 8)


def test_a_release_of_own_networks_runs_no_code_before_it_is_trusted(
    released: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "burglar.py").write_text("raise SystemExit('this code ran')\n")
    config = Path(released, CONFIG)
    files = {name: Path(released, name).read_bytes() for name in (WEIGHTS, SHAPE)}
    files[CONFIG] = config.read_bytes().replace(OWN.encode(), b"burglar:Networks")
    write_folder(str(tmp_path / "other"), "release", files.items())
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UntrustedCodeError):
        load(str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="SystemExit: this code ran"):
        load(str(tmp_path / "other"), trust="burglar:Networks")


def test_own_networks_export_to_a_file_that_needs_no_code(released: str, tmp_path: Path) -> None:
    with pytest.raises(UntrustedCodeError):
        export(released, str(tmp_path / "generator.pt2"))
    assert export(released, str(tmp_path / "generator.pt2"), trust=[OWN]).max_abs_diff <= 1e-5


def test_settings_come_from_files_and_overrides_and_go_into_the_resolved_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        f"data: {{path: builtin://digits}}\nmodel:\n  name: {OWN}\n  settings: {{depth: 2, slope: 0.3}}\n"
    )
    config = load_config(str(file), ["model.settings.depth=3"])
    assert config.model.settings == {"depth": 3, "slope": 0.3}
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load_config(str(again)).model == config.model
    assert type(load_config(str(again))) is RunConfig
