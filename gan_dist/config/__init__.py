"""The whole run as frozen models; files and `key=value` become one."""

from gan_dist.config.data import DataConfig
from gan_dist.config.fields import config_schema, differing_keys, flatten, named_classes
from gan_dist.config.init import InitConfig
from gan_dist.config.load import load_config, to_yaml
from gan_dist.config.loss_optim import LossConfig, OptimConfig, RateConfig
from gan_dist.config.model import ModelConfig
from gan_dist.config.scale import ScaleConfig
from gan_dist.config.schema import (
    FREE_ON_RESUME,
    EmaConfig,
    EvalConfig,
    LogConfig,
    RunConfig,
    StorageConfig,
    TrainConfig,
)
from gan_dist.config.search import SearchConfig
from gan_dist.config.section import Section
from gan_dist.config.source import preset_names

__all__ = [
    "FREE_ON_RESUME",
    "DataConfig",
    "EmaConfig",
    "EvalConfig",
    "InitConfig",
    "LogConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RateConfig",
    "RunConfig",
    "ScaleConfig",
    "SearchConfig",
    "Section",
    "StorageConfig",
    "TrainConfig",
    "config_schema",
    "differing_keys",
    "flatten",
    "load_config",
    "named_classes",
    "preset_names",
    "to_yaml",
]
