"""What models around a language model have in common, by vectors or by title: what is trained, kept and configured."""

from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from llmsrec.engine import wrapped_layers
from llmsrec.engine.decoder import Decoder
from llmsrec.errors import DataError
from llmsrec.files import atomic, write_json
from llmsrec.models.cf.teacher import Teacher

WEIGHTS = "model.safetensors"


class Joined(nn.Module):
    """A language model and a sequential recommender, both frozen, with what is trained around them.

    Attributes:
        backbone: the language model, which may have adapters.
        teacher: the recommender.
        decoder: runs the language model's layers instead of its own code; None where that is not right.
    """

    backbone: nn.Module
    teacher: Teacher
    decoder: Decoder | None

    def configure_layers(self, gradient_checkpointing: bool, compile: bool) -> None:
        """Have the backbone's layers computed again in the backward pass, or compiled. Values stay the same, but for
        rounding where they are compiled.

        Raises:
            ParamsError: it cannot be done with this model, or on this machine.
        """
        if gradient_checkpointing:
            wrapped_layers.checkpoint_layers(self.backbone)
        if compile and self.decoder is not None:
            self.decoder.compile()
        elif compile:
            wrapped_layers.compile_layers(self.backbone)

    def train(self, mode: bool = True) -> Self:
        """Only what is trained changes mode: there is no dropout in the teacher, or in the language model."""
        super().train(mode)
        self.teacher.eval()
        self.backbone.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name to parameter of everything that has a gradient."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write the trained parameters and the settings that rebuild the model around them.

        Raises:
            DataError: LoRA's adapters are all zero, as they were before training: no gradient reached them.
        """
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.trainable().items()}
        adapters = [tensor for name, tensor in tensors.items() if ".lora_B." in name]
        if adapters and not any(tensor.any() for tensor in adapters):
            raise DataError(
                f"the adapters of the language model are zero after training, so nothing was learnt by them, and "
                f"{folder} is not written; train for longer or at a higher learning rate, or without adapters (a rank "
                "of 0)."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / WEIGHTS) as temporary:
            save_file(tensors, temporary)
        write_json(folder / "config.json", settings)

    def fill(self, folder: Path, again: str = "train it again") -> Self:
        """Take the trained parameters that `save` wrote; the model is in evaluation mode then.

        Args:
            again: what to do where that cannot be.

        Raises:
            DataError: a missing, damaged or mismatched file.
        """
        path, trainable = folder / WEIGHTS, self.trainable()
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read ({error}); {again}.") from error
        odd = sorted(tensors.keys() ^ trainable.keys()) or [
            name for name, tensor in tensors.items() if tensor.shape != trainable[name].shape
        ]
        if odd:
            raise DataError(f"{path} does not fit this system's settings: {', '.join(odd[:3])}; {again}.")
        with torch.no_grad():
            for name, tensor in tensors.items():
                trainable[name].copy_(tensor)
        return self.eval()
