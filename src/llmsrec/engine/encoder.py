"""The text encoder that a system's settings name: the backbone, or another."""

from pathlib import Path

from pydantic import Field

from llmsrec.engine.backbone import Backbone, describe, load
from llmsrec.params import Section


class Encoder(Section):
    """Which text encoder: a folder, or a hub id with its commit; the configured backbone without `model`."""

    model: str | None = Field(min_length=1)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")


def load_encoder(
    encoder: Encoder,
    root: Path,
    folder: Path,
    backbone: Path,
    dtype: str = "float32",
    quantization: str = "none",
) -> Backbone:
    """The encoder that a system's settings name; a folder is absolute or relative to `root`.

    Args:
        folder: where the encoder's backbone.json is written.
        backbone: the backbone's folder, of these `dtype` and `quantization`; another encoder is float32.

    Raises:
        DataError, ParamsError: as `backbone.describe` and `backbone.load`.
    """
    if encoder.model is None:
        return load(backbone, dtype, quantization)
    describe(encoder.model, encoder.revision, root, folder, "encoder")
    return load(folder)
