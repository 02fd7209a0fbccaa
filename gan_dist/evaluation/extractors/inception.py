"""The extractor `inception`: the network of FID as in torch-fidelity; the user provides its weights."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

import torch
from torch import Tensor

from gan_dist.config.machine import INCEPTION_FILE, INCEPTION_VARIABLE, downloaded_inception
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError, StorageError
from gan_dist.evaluation.extractors.features import Features, check_images, exact

WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"

WEIGHTS_BYTES = 95_628_359

WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Hash of that file. With other weights the distance is not FID and has another name."""

CHUNK = 32
"""Images that go through the network at once. Each needs 18 MB, and on a CPU larger batches are slower."""


class Inception:
    """Inception's last pooled features, and its logits without their bias, from one pass.

    The same as torch-fidelity's `2048` and `logits_unbiased`, to the bit on a CPU, with its imitation of
    TensorFlow 1's resizing; images of one channel are repeated to three.

    Raises:
        CheckpointError: `weights` are no dictionary of tensors that PyTorch saved, or of another network.
    """

    name = "inception"
    dim = 2048
    classes = 1008
    layer = "2048"
    resize = "bilinear-tf1 299"

    def __init__(self, weights: bytes, device: torch.device) -> None:
        self.hash = hashlib.sha256(weights).hexdigest()
        self.metric = "fid" if self.hash == WEIGHTS_SHA256 else f"fd_{self.name}"
        self._device = device
        self._network = _network(_tensors(weights)).to(device)

    def __call__(self, images: Tensor) -> Features:
        """Return features (B, 2048) and logits (B, 1008) of images uint8 (B, 1 or 3, H, W).

        Raises as `check_images` does.
        """
        check_images(images, self.name)
        colour = images.to(self._device).expand(-1, 3, -1, -1)
        with exact(self._device):
            parts = [self._network(part) for part in colour.split(CHUNK)]
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return Features(features, logits)


def load_inception(
    device: torch.device, weights: str | None = None, *, sha256: str = WEIGHTS_SHA256
) -> Inception:
    """Return the extractor with the weights of a file that has the hash `sha256`.

    `weights` is its path or URI; absent, the environment variable INCEPTION_VARIABLE has it, or
    torch-fidelity has downloaded it.

    Raises:
        ConfigError: there is neither a path nor the environment variable.
        StorageError: the file cannot be read.
        CheckpointError: it has another hash, or is no such file.
    """
    uri = weights or os.environ.get(INCEPTION_VARIABLE) or downloaded_inception()
    if not uri:
        what = "eval.extractor=inception needs the weights of FID"
        remedy = (
            f"download {WEIGHTS_URL} (SHA-256 {WEIGHTS_SHA256}) and set eval.inception_weights or "
            f"{INCEPTION_VARIABLE} to the path or URI of that file; or use eval.extractor=random, which "
            "needs none"
        )
        raise ConfigError(what, remedy, keys=("eval.inception_weights", "eval.extractor"))
    try:
        content = storage.read_bytes(uri)
    except StorageError as error:
        (problem,) = error.problems
        raise StorageError(
            f"the weights of eval.extractor=inception cannot be read: {problem.what}",
            f"{problem.remedy}; the file is at {WEIGHTS_URL}"
            if problem.remedy
            else f"download {WEIGHTS_URL}",
            keys=("eval.inception_weights",),
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{storage.redact(uri)} has SHA-256 {found} ({len(content)} bytes) and should have {sha256}: "
            "it is damaged, or another file",
            f"download {WEIGHTS_URL} ({WEIGHTS_BYTES} bytes)",
            keys=("eval.inception_weights",),
        )
    return Inception(content, device)


def _tensors(weights: bytes) -> dict[str, Tensor]:
    try:
        # With `weights_only` it reads no more than tensors, and the file's hash has been checked.
        found = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            "the weights of eval.extractor=inception are no file of tensors that can be read without running "
            f"code from it ({type(error).__name__})",
            f"use {WEIGHTS_URL}",
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise CheckpointError(
            "the weights of eval.extractor=inception are no dictionary of tensors", f"use {WEIGHTS_URL}"
        )
    return {name: value.detach() for name, value in found.items()}


def _network(tensors: dict[str, Tensor]) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The constructor unpickles its file, and downloads one where there is none. This file was written here,
    # and has nothing but tensors.
    file = io.BytesIO()
    torch.save(tensors, file)
    file.seek(0)
    layers = ["2048", "logits_unbiased"]
    try:
        with torch.random.fork_rng(devices=[]):  # layers draw weights before they are loaded
            return FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=file)
    except RuntimeError as error:  # from load_state_dict
        raise CheckpointError(
            "the weights of eval.extractor=inception are of another network", f"use {WEIGHTS_URL}"
        ) from error
