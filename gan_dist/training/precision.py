"""Number formats, memory layout and compilation of a step."""

from __future__ import annotations

import os
import shutil
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gan_dist.config import TrainConfig
from gan_dist.core.errors import ConfigError
from gan_dist.core.memory import keep_freed_memory
from gan_dist.training.eager import keep_compiler_out


@dataclass(frozen=True)
class PrecisionPolicy:
    """Values of `train.precision`, `train.channels_last` and `train.compile` on a device, `auto` resolved."""

    device: torch.device
    bf16: bool
    """Whether networks compute in bfloat16, by autocast; weights stay float32."""
    channels_last: bool
    compiled: bool

    @classmethod
    def of(
        cls, train: TrainConfig, device: torch.device, *, penalised: bool, synchronised: bool = False
    ) -> PrecisionPolicy:
        """Return the policy for the networks of a device.

        Args:
            train: The three settings.
            device: Device of the networks.
            penalised: Whether a network is differentiated twice.
            synchronised: Whether layers of the networks exchange statistics with other ranks.

        Raises:
            ConfigError: the device does not support a setting.
        """
        possible = has_bf16(device)
        if train.precision == "bf16" and not possible:
            raise _refused(
                f"train.precision=bf16: this machine's {device.type} does not compute in bfloat16",
                "use train.precision=auto, which takes it only where it is to be had",
                "train.precision",
            )
        if train.compile == "always" and penalised:
            raise _refused(
                "train.compile=always: a compiled network cannot be differentiated twice, as penalties on "
                "gradients need",
                "use train.compile=auto, or a loss without a penalty",
                *("train.compile", "loss.name"),
            )
        if train.compile == "always" and device.type == "cuda" and not can_compile(device):
            raise _refused(
                "train.compile=always: torch.compile needs a GPU of compute capability 7.0 or more, a C "
                "compiler and Python's headers (apt-get install gcc python3-dev), and this machine lacks one "
                "of them",
                "use train.compile=auto, which compiles only where all are to be had",
                "train.compile",
            )
        compiled = train.compile == "always"
        if train.compile == "auto":
            # Compiled graphs cannot be differentiated twice, and end at each layer that asks other ranks; on
            # CPUs they gain nothing.
            compiled = not penalised and not synchronised and device.type == "cuda" and can_compile(device)
        return cls(device, possible and train.precision != "fp32", train.channels_last, compiled)

    def networks(self, *, float32: bool = False) -> AbstractContextManager[object]:
        """Return the context for calls of the networks; `float32` overrides the configured precision."""
        if not self.bf16 or float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def images(self, pixels: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) as float32 in [-1, 1], on the device and in its memory layout."""
        layout = memory_format(channels_last=self.channels_last)
        images = pixels.to(self.device).to(torch.float32, memory_format=layout)
        return images.div_(127.5).sub_(1)


def _refused(what: str, remedy: str, *keys: str) -> ConfigError:
    return ConfigError(what, remedy, keys=keys)


def tune_process(device: torch.device) -> None:
    """Set the allocator of this process; on GPUs also TF32 for products, and a fixed order of sums.

    On CPUs, where nothing is compiled unless it is asked for, PyTorch's compiler is not imported.
    """
    keep_freed_memory()
    if device.type == "cpu":
        keep_compiler_out()
    else:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True
        # Read when cuBLAS is first called; a user's choice stays.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def memory_format(*, channels_last: bool) -> torch.memory_format:
    """Return the layout of images and of convolutions' weights."""
    return torch.channels_last if channels_last else torch.contiguous_format


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for products of bfloat16 numbers."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions oneDNN computes in float32 and rounds: slower than float32 itself.
    cpu = torch.cpu.get_capabilities()
    has_instructions = any(cpu.get(feature, False) for feature in ("amx_bf16", "avx512_bf16", "bf16"))
    return has_instructions and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def can_compile(device: torch.device) -> bool:
    """Return whether Triton supports a GPU and finds a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_path("include"), "Python.h")
    return bool(compiler) and header.exists() and torch.cuda.get_device_capability(device) >= (7, 0)
