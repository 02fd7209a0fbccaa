"""`data.augment` as a name, as a mapping of transforms, and as text."""

from __future__ import annotations

import pytest

from gan_dist.config import RunConfig, config_schema, differing_keys, load_config, to_yaml
from gan_dist.config.augment import AugmentChoice, augment_name, format_augment, read_augment
from gan_dist.core.errors import ConfigError

NORMAL: dict[str, AugmentChoice] = {
    "ada": "ada",
    "{ada: [blit]}": {"ada": ("flip", "shift")},
    "{ada: [color, cutout, turn]}": {"ada": ("turn", "color", "cutout")},
    "{ada: {geom: 1, blit: 1.0}}": {"ada": ("flip", "shift", "geom")},
    "{ada: {color: 0.5, turn: 1, blit: 0.25}}": {
        "ada": {"flip": 0.25, "turn": 1.0, "shift": 0.25, "color": 0.5}
    },
    "{diffaugment: [cutout, color]}": {"diffaugment": ("color", "cutout")},
    "{diffaugment: [cutout, color, translation]}": "diffaugment",
}


def load(text: str) -> RunConfig:
    return load_config("digits", ["name=run", f"data.augment={text}"])


@pytest.mark.parametrize("written", NORMAL)
def test_equal_choices_are_equal_configurations_however_they_are_written(written: str) -> None:
    for text in (written, f'"{written}"'):
        config = load(text)
        assert config.data.augment == NORMAL[written]
        # As a configuration in a file, and as a worker gets it.
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config
        again = load(format_augment(config.data.augment))
        assert differing_keys(config, again) == []
        assert format_augment(again.data.augment) == format_augment(NORMAL[written])
        assert augment_name(config.data.augment) in ("ada", "diffaugment")


def test_a_run_folder_has_the_choice_in_its_config_file() -> None:
    written = to_yaml(load("{ada: {color: 0.5, geom: 1}}"))
    assert "augment:\n    ada:\n      geom: 1.0\n      color: 0.5\n" in written


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("adda", "or your own package.module:Class or a mapping, not 'adda'; the nearest is ada"),
        ("[ada]", "package.module:Class or a mapping, not a list"),
        ("{ada: [geometry]}", "ada has no transform 'geometry'; the nearest is geom"),
        ("{ada: [xyz]}", "ada has no transform 'xyz'; there are blit (flip and shift), flip, turn, shift, "),
        ("{diffaugment: [blit]}", "diffaugment has no transform 'blit'"),
        ("{ada: [flip, blit]}", "ada has flip twice"),
        ("{ada: []}", "ada has no transforms; name some, or set data.augment=none"),
        ("{ada: {flip: 2}}", "the share of ada's flip must be above 0 and at most 1, not 2"),
        ("{ada: {flip: 0}}", "the share of ada's flip must be above 0 and at most 1, not 0"),
        ("{ada: {flip: yes}}", "the share of ada's flip must be above 0 and at most 1, not 'yes'"),
        ("{ada: flip}", "ada has a list of transforms, or a mapping of them"),
        ("{diffaugment: {color: 1}}", "diffaugment has a list of transforms; there are color, translation"),
        ("{ada: [flip], diffaugment: [color]}", "names ada, diffaugment, and a mapping names ada or"),
        ("{}", "names nothing, and a mapping names ada or diffaugment, one of them"),
        ('"{ada: ["', "is not readable as YAML"),
    ],
)  # fmt: skip
def test_what_is_no_choice_is_one_problem_of_the_key(written: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(written)
    (found,) = raised.value.problems
    assert problem in str(found)
    assert found.keys == ("data.augment",)


def test_a_probability_goes_with_every_pipeline_of_ada() -> None:
    assert load_config("digits", ["name=x", "data.augment={ada: [blit]}", "data.augment_p=0.3"])
    with pytest.raises(ConfigError, match=r"data\.augment=\{diffaugment: \[color\]\} does not make"):
        load_config("digits", ["name=x", "data.augment={diffaugment: [color]}", "data.augment_p=0.3"])


def test_the_schema_has_the_transforms() -> None:
    name, _, mapping = config_schema()["$defs"]["DataConfig"]["properties"]["augment"]["anyOf"]
    assert name["enum"] == ["none", "diffaugment", "ada"]
    words = mapping["additionalProperties"]["anyOf"][0]["items"]["enum"]
    assert all(read_augment({"ada": [word]}) for word in words if word != "translation")
