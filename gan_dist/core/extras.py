"""Packages that come with an extra of gan-dist, `pip install "gan-dist[EXTRA]"`, and what is said without."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from gan_dist.core.errors import MissingPackageError

MODULES: Mapping[str, tuple[str, ...]] = {
    "hub": ("huggingface_hub",),
    "lmdb": ("lmdb",),
    "mlflow": ("mlflow",),
    "mp4": ("av",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("fastapi", "starlette", "uvicorn"),
    "train": (
        *("aiohttp", "boto3", "botocore", "cmaes", "grpc", "optuna", "pathspec", "psutil", "ray", "requests"),
        *("s3fs", "scipy", "sqlalchemy", "tensorboard", "torch_fidelity", "torchvision"),
    ),
    "wandb": ("wandb",),
}
"""Modules that the package imports, by the extra that installs them; those of `s3` are in `train` too."""
_BUCKETS = ("botocore", "s3fs")


def require(extra: str, what: str) -> None:
    """Raise a MissingPackageError unless the packages of an extra are installed; `what` needs them."""
    if missing := [name for name in MODULES[extra] if find_spec(name) is None]:
        raise _error(extra, what, missing)


def explain(error: ModuleNotFoundError) -> MissingPackageError | None:
    """Return the error to show for a module that an extra would have brought; None for any other module."""
    name = (error.name or "").partition(".")[0]
    found = [extra for extra, modules in MODULES.items() if name in modules]
    return _error("s3" if name in _BUCKETS else found[0], "this", [name]) if found else None


def _error(extra: str, what: str, missing: list[str]) -> MissingPackageError:
    are = "is" if len(missing) == 1 else "are"
    return MissingPackageError(
        f"{what} needs {', '.join(missing)}, which {are} not installed", f'pip install "gan-dist[{extra}]"'
    )
