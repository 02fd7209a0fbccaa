"""The whole run as frozen models (`schema.py`), and how files and overrides become one (`load.py`)."""

from gan_dist.config.load import (
    config_schema,
    differing_keys,
    flatten,
    load_config,
    preset_names,
    to_yaml,
)
from gan_dist.config.schema import (
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
    Section,
    StorageConfig,
    TrainConfig,
)

__all__ = [
    "FREE_ON_RESUME",
    "DataConfig",
    "EmaConfig",
    "EvalConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RateConfig",
    "RunConfig",
    "ScaleConfig",
    "Section",
    "StorageConfig",
    "TrainConfig",
    "config_schema",
    "differing_keys",
    "flatten",
    "load_config",
    "preset_names",
    "to_yaml",
]
