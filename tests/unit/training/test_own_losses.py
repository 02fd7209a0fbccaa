"""A loss and an augmentation of a user's own by import path: trained, checked, refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_dist.config import DataConfig, LossConfig, RunConfig, load_config
from gan_dist.config.loss_defaults import LOSS_DEFAULTS
from gan_dist.core.errors import ConfigError
from gan_dist.search.plan import make_plan
from gan_dist.training import augment, losses
from gan_dist.training.checks import check_augmentation, check_loss
from gan_dist.training.preflight import summarise
from tests.own_losses import Darken, Margin

OWN = ["loss.name=tests.own_losses:Margin", "data.augment=tests.own_losses:Darken"]
SHAPE = (3, 8, 8)


def config(*overrides: str) -> RunConfig:
    return load_config("digits", ["name=run", *overrides])


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that puts a class into a module `own_code`; the class's import path."""
    module = ModuleType("own_code")
    monkeypatch.setitem(sys.modules, "own_code", module)

    def put(kind: type) -> str:
        setattr(module, kind.__name__, kind)
        return f"own_code:{kind.__name__}"

    return put


# What is fine


@pytest.mark.parametrize("name", [*LOSS_DEFAULTS, "tests.own_losses:Margin"])
def test_all_losses_of_the_package_pass_the_checks_of_a_user_s_own(name: str) -> None:
    check_loss(LossConfig(name=name))


CHOICES = [
    *("diffaugment", "ada", {"diffaugment": ("cutout",)}, "tests.own_losses:Darken"),
    {"ada": ("flip", "shift", "geom", "filter", "noise", "cutout")},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_all_augmentations_of_the_package_pass_the_checks_of_a_user_s_own(choice: Any) -> None:
    check_augmentation(DataConfig(path="x", augment=choice), SHAPE, twice=True)


def test_settings_reach_the_classes_and_a_search_varies_them() -> None:
    chosen = config(*OWN, "loss.settings.margin=0.25", "data.augment_settings={strength: 0.75}")
    assert summarise(chosen).images > 0
    margin, darken = losses.build(chosen.loss), augment.build(chosen.data)
    assert isinstance(margin, Margin)
    assert isinstance(darken, Darken)
    assert (margin.settings.margin, darken.settings.strength) == (0.25, 0.75)
    logits = torch.tensor([0.1, 0.5]), torch.tensor([-0.2, 0.0])
    assert margin.discriminator(*logits).item() == pytest.approx(0.15 / 2 + (0.05 + 0.25) / 2)
    images = torch.ones(1, *SHAPE)
    assert torch.equal(darken(images, torch.tensor([[0.1, 0.5]]), 0.2), images * 0.625)
    space = "{loss.settings.margin: {uniform: [0.1, 1]}, data.augment_settings.strength: [0.5, 1.0]}"
    plan = make_plan("digits", ["name=search", *OWN, f"search={{space: {space}}}"])
    margins = {trial.loss.settings["margin"] for trial in plan.with_own_code()}
    strengths = {trial.data.augment_settings["strength"] for trial in plan.with_own_code()}
    assert (margins, strengths) == ({0.1, 1}, {0.5, 1.0})
    trial = plan.trial(0, {"loss.settings.margin": 0.3, "data.augment_settings.strength": 1.0})
    assert (trial.loss.settings, trial.data.augment_settings) == ({"margin": 0.3}, {"strength": 1.0})


def test_a_loss_of_one_s_own_comes_with_dcgan_s_settings() -> None:
    chosen = load_config("digits", ["name=run", "loss.name=wgan", "loss.name=tests.own_losses:Margin"])
    assert (chosen.loss.clip, chosen.optim.name, chosen.optim.d_steps) == (0, "adam", 1)


# What is refused


@pytest.mark.parametrize(
    ("overrides", "problem", "key"),
    [
        (["loss.settings.margin=-1"], "loss.settings.margin must be a number greater than 0, not -1", None),
        (["loss.settings.margn=1"], "has no such setting; the nearest is margin", "loss.settings.margn"),
        (
            ["data.augment_settings.strength=2"],
            "must be a number greater than 0 and of at most 1, not 2",
            None,
        ),
        (
            ["loss.name=hinge", "loss.settings.margin=1"],
            "loss.name=hinge has no such setting; it has none",
            None,
        ),
        (["loss.name=tests.own_losses:Margn"], "tests.own_losses has no class Margn", "loss.name"),
        (["loss.name=tests.own_losses:Darken"], "does not derive from gan_dist.Adversarial", "loss.name"),
        (
            ["data.augment=tests.own_losses:Margin"],
            "does not derive from gan_dist.Augmentation",
            "data.augment",
        ),
        (["data.augment=no.such:Module"], "importing no.such failed", "data.augment"),
    ],
)
def test_what_the_classes_refuse_is_known_before_any_worker(
    overrides: list[str], problem: str, key: str | None
) -> None:
    with pytest.raises(ConfigError) as raised:
        summarise(config(*OWN, *overrides))
    (found,) = raised.value.problems
    assert problem in str(found)
    assert found.keys == (key or overrides[-1].partition("=")[0],)


class Vector(Margin):
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits - real_logits


class Detached(Margin):
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return super().generator(fake_logits.detach(), real_logits)


class IgnoresReals(Margin):
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits.mean()


class Summed(Margin):
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return -fake_logits.sum()


class Averaging(Margin):
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return super().discriminator(real_logits - fake_logits.mean(), fake_logits - real_logits.mean())


class Dice(Margin):
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return super().discriminator(real_logits + torch.rand(()), fake_logits)


class Infinite(Margin):
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return fake_logits.log().mean()


class NeedsReals(Margin):
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return (real_logits - fake_logits).mean()  # type: ignore[operator]


class Percent(Margin):
    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        real, fake = super().accuracy(real_logits, fake_logits)
        return 100 * real, 100 * fake


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Vector, "the discriminator's loss of 16 logits is (16,); return a scalar"),
        (Detached, "the generator's loss has no gradient"),
        (IgnoresReals, "the discriminator's loss does not depend on the real logits"),
        (Summed, "two workers would train otherwise than one"),
        (Averaging, "two workers would train otherwise than one"),
        (Dice, "the discriminator's loss of the same logits is another one each time"),
        (Infinite, "the generator's loss is nan for logits around 0"),
        (NeedsReals, "failed when it was tried: TypeError: unsupported operand"),
        (Percent, "accuracy returned"),
    ],
)
def test_a_loss_that_would_not_train_exactly_is_refused(own: Any, kind: type, problem: str) -> None:
    path = own(kind)
    with pytest.raises(ConfigError) as raised:
        check_loss(LossConfig(name=path))
    assert f"loss.name={path}" in str(raised.value)
    assert problem in str(raised.value)
    assert raised.value.problems[0].keys == ("loss.name",)


def test_top_k_of_a_relativistic_loss_is_refused(own: Any) -> None:
    class Relative(Margin):
        relativistic = True

    with pytest.raises(
        ConfigError, match=r"loss\.top_k=0\.5: loss\.name=own_code:Relative compares each fake"
    ):
        check_loss(LossConfig(name=own(Relative), top_k=0.5))


class Halved(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__(images, draws, p)[:, :, ::2]


class Random(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__(images, torch.rand(draws.shape), p)


class Mixed(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__((images + images.roll(1, 0)) / 2, draws, p)


class ByPosition(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__(images, draws.flip(0), p)


class Numpy(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return torch.from_numpy(super().__call__(images.detach(), draws, p).numpy().copy())


class Rounded(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__((images * 255).round() / 255, draws, p)


class Logarithm(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__(images.log(), draws, p)


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:  # noqa: ARG004
        return images / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient / 2


class Once(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        halved: Tensor = Half.apply(images)
        return super().__call__(halved, draws, p)


class NoColumns(Darken):
    def columns(self, shape: tuple[int, int, int]) -> int:
        return 0


class Absent(Darken):
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return super().__call__(images, draws[:, 5:], p)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Halved, "it returned (4, 3, 4, 8) of torch.float32 of images (4, 3, 8, 8)"),
        (Random, "it draws random numbers of its own"),
        (Mixed, "its result for an image depends on the other images of the batch"),
        (ByPosition, "its result for an image depends on the other images of the batch"),
        (Numpy, "no gradient reaches the images"),
        (Rounded, "no gradient reaches the images"),
        (Logarithm, "it returned NaN or infinity"),
        (Once, "it cannot be differentiated twice"),
        (NoColumns, "columns returned 0"),
        (Absent, "failed when it was tried: IndexError"),
    ],
)
def test_an_augmentation_that_would_not_train_exactly_is_refused(own: Any, kind: type, problem: str) -> None:
    data = DataConfig(path="x", augment=own(kind))
    with pytest.raises(ConfigError) as raised:
        check_augmentation(data, SHAPE, twice=True)
    assert f"data.augment=own_code:{kind.__name__}" in str(raised.value)
    assert problem in str(raised.value)
    assert raised.value.problems[0].keys == ("data.augment",)


def test_what_is_differentiated_once_needs_no_second_derivative(own: Any) -> None:
    check_augmentation(DataConfig(path="x", augment=own(Once)), SHAPE, twice=False)


def test_a_probability_that_nothing_heeds_is_refused(own: Any) -> None:
    class Steady(Darken):
        adaptive = False

    path = own(Steady)
    with pytest.raises(
        ConfigError, match=r"data\.augment_p=0\.3: data\.augment=own_code:Steady does not heed"
    ):
        check_augmentation(DataConfig(path="x", augment=path, augment_p=0.3), SHAPE, twice=False)
    check_augmentation(DataConfig(path="x", augment=path), SHAPE, twice=False)


@pytest.mark.parametrize(("module", "name"), [("margins", "Margin"), ("darkness", "Darken")])
def test_the_examples_of_the_documents_pass(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "extend.md").read_text()
    code = page.split(f"Save this as `{module}.py`:\n\n```python\n")[1].split("```")[0]
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    if module == "margins":
        check_loss(LossConfig(name=f"{module}:{name}", settings={"margin": 0.5}))
    else:
        settings: dict[str, Any] = {"strength": 0.8}
        data = DataConfig(path="x", augment=f"{module}:{name}", augment_settings=settings)
        check_augmentation(data, SHAPE, twice=True)
    monkeypatch.delitem(sys.modules, module)
