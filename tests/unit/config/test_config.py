"""Configurations: what is read, what is refused and in which words, and what is written."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from gan_dist.config import (
    FREE_ON_RESUME,
    DataConfig,
    EmaConfig,
    EvalConfig,
    LogConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RateConfig,
    RunConfig,
    ScaleConfig,
    SearchConfig,
    Section,
    StorageConfig,
    TrainConfig,
    config_schema,
    differing_keys,
    fields,
    flatten,
    load_config,
    messages,
    preset_names,
    to_yaml,
)
from gan_dist.config.loss_defaults import LOSS_DEFAULTS
from gan_dist.config.source import MAX_BYTES
from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, StorageError

GOLDEN = Path(__file__).parent / "golden" / "config_errors.txt"
DEFAULTS = GOLDEN.with_name("defaults.yaml")
GOOD = "data:\n  path: builtin://digits\n"
BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "unknown key": (GOOD + "optim:\n  g:\n    lrr: 1\n", []),
    "unknown key that ends as another does": (GOOD + "lr: 1e-4\ntrain:\n  workers: 2\n", []),
    "unknown key like nothing": (GOOD + "zzz: 1\ntrain:\n  qqqqqqqq: 1\nemma: {half_life_kimg: 3}\n", []),
    "required key misspelt": ("data:\n  pth: builtin://digits\n", []),
    "unknown override": (GOOD, ["optim.g.lrr=1", "train.kimg.x=3", "--lr=1"]),
    "override that is no number": (GOOD, ["train.kimg=abc"]),
    "override without =": (GOOD, ["train.kimg", "=5", "train.kimg=3"]),
    "override without value": (GOOD, ["storage=", "train="]),
    "override that is not YAML": (GOOD, ["storage=[a", "name=@x", "storage=a #b", "data.resolution=#5"]),
    "password in a URI": (
        GOOD,
        ["storage=s3://AKIA:sec/ret@b/x", "init.from=https://me:pw@h/x", "nokey=https://me:pw@h"],
    ),
    "password in a file": ("data: {path: https://me:pw@h/x}", []),
    "word for a list": (GOOD, ["log.to=mlflow", "eval.metrics=kid,pr"]),
    "override with a mapping": (GOOD, ["train={kimg: 0, lrr: 2, batch_size: 8, batch_size: 9}"]),
    "override long": (GOOD, ["name=" + "x " * 200]),
    "later override mends, and another breaks": (GOOD, ["train.kimg=abc", "train.kimg=1", "train.kimg=-1"]),
    "wrong types": (
        "name: 2024\nstorage: true\nseed: 1.5\n"
        "data: {path: 3, resolution: '64'}\n"
        "train: {batch_size: yes, kimg: true}\n"
        "optim: {d_steps: [1], g: {lr: {value: 1}}}\n"
        "eval: {samples: null}\n",
        [],
    ),
    "out of range": (
        GOOD
        + "name: my run\nstorage: ''\nseed: -1\nema: {half_life_kimg: 0}\n"
        + "optim: {g: {lr: .inf, beta1: 1, beta2: -.1}}\neval: {samples: 1}\nscale: {gpus_per_worker: -1}\n",
        [],
    ),
    "targets and checkpoints out of range": (
        GOOD + "eval: {target: 0}\ntrain: {keep: 0, checkpoint_every_s: 0}\n",
        ["search.target=-1", "search.space={optim.g.lr: [1e-4, 1e-3]}"],
    ),
    "sizes out of range": (
        GOOD + "  streams: 100000\n  disk_cache_gb: 1e300\n",
        ["storage.timeout_s=1e300", "scale.collective_timeout_s=1e10"],
    ),
    "choices": (GOOD + "  cache: memry\nmodel: {name: dcgn}\nloss: {name: wasserstein}\n", []),
    "missing": ("train:\n  kimg: 5\n", []),
    "empty file": ("", []),
    "section given a value": ("data: builtin://digits\ntrain: 5\noptim: [1]\nema: null\n", ["scale=2"]),
    "duplicate keys": (GOOD + "seed: 1\ntrain: {kimg: 1}\nseed: 2\ntrain.kimg: 2\ntrain: {}\n", []),
    "part of a search's space": (
        GOOD + "search:\n  space.train.kimg: [1, 2]\n",
        ["search.space.optim.g.lr={log: [1e-4, 1e-3]}"],
    ),
    "rule over two keys": (GOOD + "train:\n  batch_size: 64\n", ["scale.workers=5"]),
    "rule over two keys of the file": (GOOD + "scale:\n  workers: 100\n", []),
    "clip with penalty": (GOOD + "loss: {name: wgan, gp: 10}\n", []),
    "clip with penalty of two layers": (GOOD + "loss: {name: wgan-gp}\n", ["loss.clip=0.01"]),
    "nothing to smooth": (GOOD, ["loss.name=hinge", "loss.label_smoothing=0.1"]),
    "no penalty where it is the loss": (GOOD, ["loss.gp=0", "loss.name=wgan-gp"]),
    "schedule without length": (GOOD + "train: {kimg: 160}\n", ["optim.schedule=cosine"]),
    "nothing to come to": (
        GOOD + "optim:\n  end_factor: 0.25\n  g: {beta2_start: 0.9}\n",
        ["loss.r1=1", "loss.penalty_end_factor=0.1", "optim.d.beta2_start=0.8"],
    ),
    "end of no penalty": (
        GOOD,
        ["optim.schedule=linear", "optim.decay_kimg=9", "loss.penalty_end_factor=0"],
    ),
    "start of no decay": (
        GOOD + "optim: {schedule: linear, decay_kimg: 9}\n",
        ["optim.d.beta2_start=0.9", "optim.name=rmsprop"],
    ),
    "probability of nothing": (GOOD + "  augment_p: 0.3\n", ["data.augment=diffaugment"]),
    "probability adapted and given": (GOOD + "  augment: ada\n  augment_p: 0.3\n", ["data.augment_kimg=9"]),
    "ends out of range": (
        GOOD + "  augment_p: 1.1\n",
        ["optim.end_factor=1.5", "loss.penalty_end_factor=-1", "optim.g.beta2_start=1"],
    ),
    "changes within a run": (
        GOOD + "optim:\n  g: {lr: {5: 1e-3}}\n  d: {lr: {0: 1e-3, 20: 1e-4, 10: 1e-5}, beta1: {}}\n",
        [
            *("optim.g.beta1={-3: 0.5}", "optim.g.beta2={0: x}", "loss.r1={0: 0.3, 20: 0}"),
            *("train.batch_size={0: 64, 40: 128}", "data.mirror={0: true}", "optim.clip_norm={a: 1}"),
            *("loss.gp={0: 1, .nan: 2}", "loss.lecam={0: 1, 0x10: 2}"),
        ],
    ),
    "changes out of range": (GOOD, ["optim.g.lr={0: 1e-3, 40: -1}", "optim.d.beta1={0: 1, 40: 0}"]),
    "changes against a rule": (GOOD, ["loss.name=hinge", "loss.label_smoothing={0: 0, 40: 0.1}"]),
    "portions": (GOOD, ["train.accumulate=3", "scale.workers=2", "model.pack=2"]),
    "fewest workers that do not divide": (GOOD, ["scale.workers=8", "scale.min_workers=3"]),
    "fewest workers in portions": (GOOD, ["scale.workers=8", "scale.min_workers=6", "train.accumulate=2"]),
    "fewest workers above workers": (GOOD, ["scale.workers=2", "scale.min_workers=4"]),
    "rule waits until keys are right": (GOOD, ["scale.workers=5", "train.batchsize=65"]),
    "file and overrides together": ("train:\n  kimg: x\n", ["seed=-1", "seeed=1", "train"]),
    "colon in a value": ("data:\n  path: a: b\n", ["zzz=1"]),
    "unclosed bracket": (GOOD + "train: {kimg: 5\n", []),
    "tab": ("data:\n\tpath: x\n", []),
    "control character": (GOOD + 'storage: "a\0b"\n', []),
    "two documents": (GOOD + "---\n" + GOOD, []),
    "list at the top": ("- 1\n", []),
    "text at the top": ("hello\n", []),
    "alias": (GOOD + "storage: &a x\nname: *a\n", []),
    "merge": (GOOD + "optim:\n  g: {<<: {lr: 1}}\n", []),
    "deep": (GOOD + "x: " + "[" * 50, []),
    "python object": (GOOD + "storage: !!python/object/apply:os.system ['true']\n", []),
    "python object as required key": ("data:\n  path: !!python/name:os.system\n", []),
    "python object as section": (GOOD + "train: !!python/object:x {kimg: 1}\n", []),
    "other tags": (GOOD + "seed: !!int x\nstorage: !!bool maybe\nname: !mine x\n", []),
    "escapes beyond Unicode": (GOOD + 'storage: "\\UFFFFFFFF"\n', ["name='\udcff'", "\udcff=1"]),
    "half a surrogate pair": (GOOD + 'storage: "\\ud800"\n"\\ud800": 1\n', []),
    "endless number": (GOOD + "seed: " + "9" * 5000 + "\n", []),
    "keys that are not text": (GOOD + "? [a]\n: 1\n5: 1\n'': {seed: 1}\n", []),
    "not UTF-8": (b"data: \xff\n", []),
    "too large": ("#" * (MAX_BYTES + 1), []),
}
MISSING_SOURCES = ["digts", "runs/my.yaml", "digits.yaml", "somewhere", "folder", ""]


def problems(source: str, overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return str(caught.value)


def golden() -> dict[str, str]:
    parts = re.split(r"^# (.*)\n", GOLDEN.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_text(text: str, *overrides: str) -> RunConfig:
    Path("my.yaml").write_text(text, encoding="utf-8")
    return load_config("my.yaml", overrides)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained(case: str) -> None:
    content, overrides = BAD[case]
    Path("my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    assert problems("my.yaml", overrides) == golden()[case]


def test_defaults_are_those_that_users_know() -> None:
    """A run that sets little is trained with them: one that changes is for the changelog."""
    search = SearchConfig(space={})
    config = RunConfig(name="x", data=DataConfig(path="builtin://digits"), search=search)
    assert to_yaml(config) == DEFAULTS.read_text()


def test_every_golden_text_has_a_case() -> None:
    assert set(golden()) == {*BAD, "sources"}


def test_bad_sources_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_dist.config.source.preset_names", lambda: ("digits", "shapes"))
    Path("folder").mkdir()
    assert "\n".join(problems(source, []) for source in MISSING_SOURCES) == golden()["sources"]


@pytest.mark.parametrize("name", preset_names())
def test_presets_load(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert load_text(to_yaml(config)) == config


def test_digits_preset_is_what_the_demo_needs() -> None:
    config = load_config("digits", ["name=mine", "scale.workers=1"])
    assert (config.name, config.data.path, config.scale.workers) == ("mine", "builtin://digits", 1)
    assert (config.train.kimg / config.eval.every_kimg, config.eval.target) == (32, 5.8)


def test_values_by_kimg_are_written_as_they_are_read_and_those_that_change_nothing_are_plain() -> None:
    config = load_text(
        GOOD + "optim:\n  g:\n    lr: {0: 8e-4, 40: 5e-4, 50: 5e-4}\n", "loss.r1={0: 1, 2.5: 3}"
    )
    assert [config.at(images).optim.g.lr for images in (0, 39999, 40000)] == [8e-4, 8e-4, 5e-4]
    assert (config.loss.r1, config.at(2500).loss.r1) == (1.0, 3.0)
    assert load_text(to_yaml(config)) == config == RunConfig.model_validate(config.model_dump(mode="json"))
    plain = load_text(GOOD, "optim.g.lr=8e-4", "loss.r1=1")
    assert config.until(2500) == plain == load_text(GOOD, "optim.g.lr={0: 8e-4, 9: 8e-4}", "loss.r1={0: 1}")
    assert differing_keys(plain, config)[1] == ("optim.g.lr", "0.0008", "{0: 0.0008, 40: 0.0005}")
    assert "schedules" not in to_yaml(plain)


@pytest.mark.parametrize("text", ["1e-4", "1.e-4", "1E-4", "+1e-4", "0.0001", ".1e-3"])
def test_floats_are_those_of_yaml_1_2(text: str) -> None:
    assert load_text(f"{GOOD}optim.g.lr: {text}\n").optim.g.lr == 1e-4
    assert load_text(GOOD, f"optim.g.lr={text}").optim.g.lr == 1e-4


@pytest.mark.parametrize(("text", "value"), [("1e5", 100000), ("64.0", 64), ("010", 10), ("0x10", 16)])
def test_whole_numbers_may_be_written_as_floats(text: str, value: int) -> None:
    samples = load_text(GOOD, f"eval.samples={text}").eval.samples
    assert (samples, type(samples)) == (value, int)


@pytest.mark.parametrize("digit", ["0xf", "0o7"])
def test_an_endless_number_is_refused_in_every_base(digit: str) -> None:
    said = problems("digits", [f"seed={digit + digit[2] * 5000}"])
    assert "which cannot be read as !!int" in said


def test_a_whole_number_may_stand_for_a_float() -> None:
    kimg = load_text(GOOD, "train.kimg=5").train.kimg
    assert (kimg, type(kimg)) == (5.0, float)


@pytest.mark.parametrize("text", ["no", "on", "1:30", "2024-01-01", "1_000"])
def test_text_that_yaml_1_1_would_bend_stays_text(text: str) -> None:
    config = load_text(f"{GOOD}storage: {text}\n")
    assert config.storage.path == text
    assert load_text(to_yaml(config)) == config


def test_overrides_win_over_the_file_and_later_over_earlier() -> None:
    config = load_text(
        GOOD + "train: {kimg: x, batch_size: 8}\nscale:\n", "train={kimg: 5}", "train.kimg=6", " seed =3"
    )
    assert (config.train.kimg, config.train.batch_size, config.seed) == (6.0, 8, 3)


def test_dotted_keys_nulls_and_quotes() -> None:
    config = load_text("data.path: 'a'\ndata.resolution: 8\n", "data.resolution=null", "name='2024'")
    assert (config.data.path, config.data.resolution, config.name) == ("a", None, "2024")


def test_paths_and_uris_need_no_quotes() -> None:
    for path in ("builtin://shapes?count=20000&resolution=64", "s3://b/a?region=eu#x", "/a b/ä=1", "C:\\x"):
        assert load_text(GOOD, f"data.path={path}").data.path == path


def test_a_section_may_be_given_by_its_one_common_key() -> None:
    assert load_text(GOOD, "storage=s3://b/runs").storage.path == "s3://b/runs"
    config = load_text(GOOD + "storage:\n  path: x\n  backend: s3fs\n", "storage=y")
    assert (config.storage.path, config.storage.backend) == ("y", "s3fs")


def test_name_defaults_to_the_files_own() -> None:
    Path("first.try.yml").write_text(GOOD, encoding="utf-8")
    assert load_config("first.try.yml").name == "first.try"
    Path("my run.yaml").write_text(GOOD, encoding="utf-8")
    assert problems("my run.yaml", []) == (
        "my run.yaml: name must be text that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$, not 'my run', "
        "which is the file's name; set name"
    )


def test_names_of_files_that_cannot_be_printed() -> None:
    Path("\udcff\n.yaml").write_text(GOOD, encoding="utf-8")
    assert problems("\udcff\n.yaml", []).startswith("\\udcff\\n.yaml: name must be text that matches ")
    assert problems("nul\0", []) == "nul\\x00: this file cannot be read: embedded null byte"


def test_byte_order_mark_and_crlf_are_read() -> None:
    Path("my.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_config("my.yaml").data.path == "builtin://digits"


def test_uri_is_read_through_storage() -> None:
    path = Path("far.yaml").absolute()
    path.write_text(GOOD + "seed: x\n", encoding="utf-8")
    assert problems(f"file://{path}", []) == (
        f"file://{path}:3: seed must be a whole number of at least 0 and less than 4294967296, not 'x'"
    )
    path.write_text(GOOD, encoding="utf-8")
    assert load_config(f"file://{path}").name == "far"


def test_storage_errors_arrive_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> bytes:
        raise StorageError(f"{uri} does not exist")

    monkeypatch.setattr(storage, "read_bytes", refuse)
    assert problems("s3://b/run.yaml?region=x", ["kimg=3"]).splitlines() == [
        "s3://b/run.yaml?region=x does not exist",
        "override kimg=3: kimg is not a key; the nearest is train.kimg",
    ]
    monkeypatch.setattr(storage, "read_bytes", lambda _: GOOD.encode())
    assert load_config("s3://b/run.yaml?region=x").name == "run"


def test_no_section_has_defaults_other_than_its_own() -> None:
    # A file that sets one key of a section gets the class's defaults for the rest of it.
    def check(model: type[BaseModel]) -> None:
        for field in model.model_fields.values():
            for kind in get_args(field.annotation) or (field.annotation,):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    assert field.default is None or field.is_required() or field.default == kind()
                    check(kind)

    check(RunConfig)


class FutureEval(EvalConfig):
    names: Annotated[tuple[Literal["fid", "kid"], ...], Field(min_length=1)] = ("fid",)
    sizes: tuple[int, ...] = ()
    flag: bool = False


class FutureSearch(Section):
    space: dict[str, list[float] | str]
    trials: int = 4


class FutureConfig(RunConfig):
    eval: FutureEval = FutureEval()
    hunt: FutureSearch | None = None


@pytest.fixture
def _future(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fields, "RunConfig", FutureConfig)
    monkeypatch.setattr(messages, "RunConfig", FutureConfig)
    fields._walk_schema.cache_clear()
    yield
    fields._walk_schema.cache_clear()


@pytest.mark.usefixtures("_future")
def test_lists_mappings_and_sections_that_may_be_absent() -> None:
    config = load_text(GOOD, "eval={names: [fid, kid], sizes: [1, 2.0], flag: true}")
    assert isinstance(config, FutureConfig)
    assert (config.eval.names, config.eval.sizes, config.eval.flag) == (("fid", "kid"), (1, 2), True)
    assert config.hunt is None
    assert load_text(to_yaml(config)) == config
    config = load_text(GOOD + "hunt:\n  space: {optim.g.lr: [1e-4, 1], x: y}\n")
    assert isinstance(config, FutureConfig)
    assert config.hunt == FutureSearch(space={"optim.g.lr": [1e-4, 1.0], "x": "y"})
    assert load_text(to_yaml(config)) == config
    config = load_text(GOOD + "hunt: {space: {}, trials: 2}\n", "hunt=null")
    assert isinstance(config, FutureConfig)
    assert config.hunt is None


@pytest.mark.usefixtures("_future")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "eval.names=[fix]",
            "eval.names must be a list of at least 1, each item one of fid, kid; "
            "'fix' is not; the nearest is fid",
        ),
        (
            "eval.names=[]",
            "eval.names must be a list of at least 1, each item one of fid, kid, not an empty list",
        ),
        ("eval.sizes=[1, a]", "eval.sizes must be a list, each item a whole number; 'a' is not"),
        ("eval.flag=yes", "eval.flag must be true or false, not 'yes'"),
        ("hunt.space=3", "hunt.space must be a mapping, not 3"),
        ("hunt.space={a: 1}", "hunt.space.a must be a list, each item a number or text, not 1"),
        ("hunt.space={a: b, a: c}", "hunt.space has the key a twice"),
    ],
)
def test_lists_and_mappings_are_explained(override: str, said: str) -> None:
    Path("my.yaml").write_text(GOOD, encoding="utf-8")
    assert problems("my.yaml", [override]) == f"override {override}: {said}"


def test_flatten_has_the_schemas_keys() -> None:
    flat = flatten(load_text(GOOD))
    assert flat["optim.g.lr"] == 2e-4
    assert flat["data.path"] == "builtin://digits"
    assert set(flat) >= FREE_ON_RESUME
    assert [key for key in flat if "." not in key] == ["name", "seed", "search"]


def test_differing_keys() -> None:
    a = load_text(GOOD)
    b = load_text(GOOD, "train.kimg=5", "optim.d.lr=1", "storage=x")
    assert differing_keys(a, a) == []
    assert differing_keys(a, b, FREE_ON_RESUME) == [("optim.d.lr", "0.0002", "1.0")]
    c = load_text(GOOD, "data.mirror=true", "model.max_width=64", "eval.metrics=[kid]", "data.path=x")
    assert differing_keys(c, a) == [
        ("data.path", "x", "builtin://digits"),
        ("data.mirror", "true", "false"),
        ("model.max_width", "64", "null"),
        ("eval.extractor", "random", "digits"),
        ("eval.metrics", '["kid"]', "[]"),
    ]
    assert [key for key, _, _ in differing_keys(a, b)] == ["storage.path", "optim.d.lr", "train.kimg"]


def test_schema_describes_keys() -> None:
    schema = config_schema()
    assert schema["required"] == ["data"]
    assert schema["$defs"]["RateConfig"]["properties"]["lr"]["description"] == "Learning rate."


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'ray', 'pyarrow', 'numpy', 'torchvision'}"
    code = f"import sys, gan_dist.config as c; c.load_config('digits'); print({heavy} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert result.stdout.strip() == "set()"


def resolved(text: str, *overrides: str) -> dict[str, object]:
    return flatten(load_text(text, *overrides))


def test_a_loss_brings_what_its_paper_sets() -> None:
    config = load_text(GOOD + "loss: {name: wgan}\n")
    assert (config.optim.name, config.optim.g.lr, config.optim.d.lr) == ("rmsprop", 5e-5, 5e-5)
    assert (config.loss.clip, config.optim.d_steps) == (0.01, 5)
    config = load_text(GOOD, "loss.name=wgan-gp")
    assert (config.loss.gp, config.optim.d.beta1, config.optim.d.beta2) == (10, 0, 0.9)


@pytest.mark.parametrize(
    ("losses", "optimizer", "rate", "betas", "d_steps", "others"),
    [
        ("minimax nonsaturating lsgan", "adam", 2e-4, (0.5, 0.999), 1, {}),
        ("wgan", "rmsprop", 5e-5, (0.0, 0.99), 5, {"clip": 0.01}),
        ("wgan-gp", "adam", 1e-4, (0.0, 0.9), 5, {"gp": 10.0}),
        ("hinge", "adam", 2e-4, (0.0, 0.9), 5, {}),
        ("rpgan", "adam", 2e-4, (0.0, 0.9), 1, {"r1": 0.05, "r2": 0.05}),
    ],
)
def test_these_are_the_papers_settings(
    losses: str,
    optimizer: str,
    rate: float,
    betas: tuple[float, float],
    d_steps: int,
    others: dict[str, float],
) -> None:
    for loss in losses.split():
        config = load_text(GOOD, f"loss.name={loss}")
        assert (config.optim.name, config.optim.d_steps) == (optimizer, d_steps)
        for network in (config.optim.g, config.optim.d):
            assert (network.lr, network.beta1, network.beta2) == (rate, *betas)
        assert config.loss == LossConfig.model_validate({"name": loss, **others})


@pytest.mark.parametrize("loss", LOSS_DEFAULTS)
def test_papers_set_the_same_keys_and_values_that_fit(loss: str) -> None:
    assert LOSS_DEFAULTS[loss].keys() == LOSS_DEFAULTS["minimax"].keys()
    found = resolved(GOOD, f"loss.name={loss}")
    assert {key: found[key] for key in LOSS_DEFAULTS[loss]} == LOSS_DEFAULTS[loss]
    if loss in ("minimax", "nonsaturating"):
        assert found == resolved(GOOD) | {"loss.name": loss}


@pytest.mark.parametrize(
    ("name", "gamma", "p", "kimg", "half_life", "batch"),
    [
        ("cifar10", 0.05, 0.55, 20_000, 5000, 512),
        ("ffhq64", 2, 0.3, 20_000, 500, 256),
        ("ffhq256", 150, 0.3, 20_000, 500, 256),
        ("imagenet64", 1, 0.4, 200_000, 50_000, 4096),
    ],
)
def test_presets_of_r3gan_have_its_authors_schedules(
    name: str, gamma: float, p: float, kimg: float, half_life: float, batch: int
) -> None:
    config = load_config(name)
    optim, loss = config.optim, config.loss
    assert (optim.schedule, optim.decay_kimg, config.data.augment_p) == ("cosine", kimg, p)
    assert (config.ema.half_life_start_kimg, config.ema.half_life_kimg) == (0, half_life)
    assert (config.train.batch_size, config.train.kimg, config.model.latent_dim) == (batch, kimg, 64)
    assert config.model.conditional == (name in ("cifar10", "imagenet64"))
    shares = dict.fromkeys(("flip", "turn", "shift", "geom", "cutout"), 1) | {"color": 0.5}
    assert config.data.augment == {"ada": shares}
    for rate in (optim.g, optim.d):
        assert (rate.lr, rate.lr * optim.end_factor) == (2e-4, 5e-5)
        assert (rate.beta1, rate.beta2_start, rate.beta2) == (0, 0.9, 0.99)
    assert (loss.r1, loss.r2, loss.penalty_end_factor) == (gamma, gamma, 0.1)
    assert load_config(name, ["loss.name=hinge"]).loss == LossConfig(name="hinge")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["ema.half_life_start_kimg=0"],
            "ema.half_life_start_kimg=0: optim.schedule=constant has no end",
        ),
        (
            ["ema.half_life_start_kimg=0", "ema.ramp_up=0.1"],
            "ema.ramp_up=0.1 contradicts ema.half_life_start_kimg=0",
        ),
        (["model.variant=tanh"], "model.variant=tanh: there is one model.name=dcgan"),
    ],
)
def test_keys_that_nothing_would_read_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_text(GOOD, *overrides)


def test_what_is_set_with_the_loss_or_later_wins_over_its_paper() -> None:
    text = GOOD + "optim: {g: {lr: 1.0}, d_steps: 2}\nloss: {name: wgan}\n"
    assert load_text(text).optim.g.lr == 1.0
    assert load_text(text, "optim.d_steps=3").optim.d_steps == 3
    for overrides in (["optim.g.lr=0.5", "loss.name=hinge"], ["loss.name=hinge", "optim.g.lr=0.5"]):
        config = load_text(text, *overrides)
        assert (config.optim.g.lr, config.optim.d.lr) == (0.5, 2e-4)
        assert (config.optim.d_steps, config.optim.name, config.loss.clip) == (5, "adam", 0)


def test_naming_the_loss_that_it_is_already_changes_nothing() -> None:
    text = GOOD + "optim: {g: {lr: 1.0}}\n"
    assert load_text(text, "loss.name=nonsaturating") == load_text(text)
    assert load_config("digits", ["loss.name=rpgan"]) == load_config("digits")


def test_a_resolved_file_stays_as_it_is_whatever_its_loss() -> None:
    config = load_text(GOOD, "loss.name=wgan", "optim.g.lr=1e-3", "loss.clip=0.02")
    assert load_text(to_yaml(config)) == config


positive = st.integers(1, 2**40)
real = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
kimg = st.floats(0.001, 1e12)
beta = st.floats(min_value=0, max_value=1, exclude_max=True)
rates = st.builds(RateConfig, lr=real, beta1=beta, beta2=beta)
text = st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(
    [
        "null",
        "1e5",
        "010",
        "08",
        "0o7",
        "true",
        "yes",
        "1:30",
        "~",
        "#",
        "a #b",
        "<<",
        "=",
        "- a",
        "&a",
        "1_0",
        " ",
        "\x85",
        "a\u2028 b\r",
    ]
)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    workers = draw(st.integers(1, 64))
    return RunConfig(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True) | st.just("1e5")),
        storage=StorageConfig(path=draw(text), timeout_s=draw(st.floats(0.1, 1e6))),
        seed=draw(st.integers(0, 2**32 - 1)),
        data=DataConfig(
            path=draw(text | st.just("")),
            resolution=draw(st.none() | positive),
            cache=draw(st.sampled_from(["auto", "memory", "stream"])),
            streams=draw(st.none() | st.integers(1, 2**16)),
            window=draw(positive),
        ),
        model=ModelConfig(latent_dim=draw(positive), width=draw(positive)),
        loss=LossConfig(
            name=draw(st.sampled_from(["minimax", "nonsaturating", "lsgan", "wgan", "hinge", "rpgan"])),
            r1=draw(real),
            clip=draw(real | st.just(0.0)),
        ),
        optim=OptimConfig(
            name=draw(st.sampled_from(["adam", "rmsprop"])),
            g=draw(rates),
            d=draw(rates),
            d_steps=draw(positive),
        ),
        ema=EmaConfig(half_life_kimg=draw(real), ramp_up=draw(real)),
        train=TrainConfig(batch_size=workers * draw(st.integers(1, 99)), kimg=draw(kimg)),
        eval=EvalConfig(every_kimg=draw(kimg), samples=draw(st.integers(2, 2**40))),
        scale=ScaleConfig(
            workers=workers, cpus_per_worker=draw(real), gpus_per_worker=draw(real | st.just(0.0))
        ),
        log=LogConfig(every_s=draw(st.floats(1e-3, 1e9))),
    )


@settings(deadline=None, max_examples=60)
@given(config=configs())
def test_yaml_round_trip(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    written = to_yaml(config)
    path.write_bytes(written.encode())
    again = load_config(str(path))
    assert again == config
    assert to_yaml(again) == written
    assert all(type(value) is type(flatten(config)[key]) for key, value in flatten(again).items())
    assert not math.isnan(again.train.kimg)


@settings(deadline=None, max_examples=300)
@given(
    content=st.text(st.characters(codec="utf-8") | st.sampled_from("\t\n :{}[],#&*!|>'\"%@`-?\\\\U")),
    override=st.text(st.characters()),
)
def test_any_text_is_read_or_refused(
    content: str, override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), [override, f"storage={override}", f"{override}=1", "seed=-1"])
    assert all(len(str(problem).splitlines()) == 1 for problem in caught.value.problems)
    str(caught.value).encode()
