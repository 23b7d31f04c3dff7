"""A bundle's language model on torch: any backbone, adapters, fewer bits, a GPU."""

from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmsrec.engine import backbone as backbones
from llmsrec.engine import lora
from llmsrec.engine.kept import UNLIMITED, Kept
from llmsrec.engine.readout import read_out, read_out_by_length
from llmsrec.engine.shortcuts import right_decoder, runs_whole
from llmsrec.engine.text_vectors import text_vectors
from llmsrec.engine.torch_layers import TorchLayers
from llmsrec.engine.yardstick import ReadOut, Yardstick
from llmsrec.errors import DataError
from llmsrec.prompts.retrieval import PromptBatch, Prompts
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.llm_tower import Vectors


class OnTorch:
    """See `llm_tower.LanguageModel`.

    Raises:
        DataError: the backbone cannot be had (see `llmsrec.engine.backbone.load`), or the adapter is not its own.
    """

    def __init__(self, bundle: Bundle) -> None:
        config = bundle.config["backbone"]
        backbone = backbones.load(bundle.folder / "backbone", config["dtype"], config["quantization"])
        self._tuned = config["lora_rank"] > 0
        if self._tuned:
            backbone = lora.tuned(backbone, config, seed=0)
            _load_adapter(backbone.model, bundle)
        self.tokenizer, self.limit = backbone.tokenizer, backbone.limit
        self.model = backbone.model.requires_grad_(False).eval()
        self._backbone, self._causal = backbone, backbone.causal
        self._device = self.model.get_input_embeddings().weight.device  # type: ignore[operator]

    def prepare(self, prompts: Prompts, vectors: Vectors) -> None:
        """Measure which of the cheaper passes are right for these prompts (`engine.shortcuts`)."""
        self._vectors = vectors
        self._item_inputs, self._user_out, item_out = (
            self._tensor(values) for values in (vectors.item_inputs, vectors.user_out, vectors.item_out)
        )
        of_users = vectors.user_inputs
        user_inputs = None if of_users is None else lambda count: self._tensor(of_users(count))
        items = self._item_inputs.__getitem__
        self._yardstick = Yardstick(self.model, prompts, items, self._user_out, user_inputs, item_out)
        padding = self._yardstick.padding()
        self._read_out: ReadOut = partial(read_out if padding else read_out_by_length, self.model)
        self.decoder = None
        if padding and not runs_whole(self.model, self._causal, self._tuned):
            self.decoder = right_decoder(self._yardstick, shared=False)
        if self.decoder:
            self._read_out = self.decoder.read_out

    @torch.no_grad()
    def read_out(
        self, prompts: PromptBatch, item_inputs: np.ndarray, out: np.ndarray, user_inputs: np.ndarray | None = None
    ) -> np.ndarray:
        """See `llm_tower.LanguageModel`."""
        inputs = self._item_inputs if item_inputs is self._vectors.item_inputs else self._tensor(item_inputs)
        seen = None if user_inputs is None else self._tensor(user_inputs)
        return self._read_out(prompts, inputs.__getitem__, self._tensor(out), seen).cpu().numpy()

    def texts(self, titles: list[str]) -> np.ndarray:
        """See `llm_tower.LanguageModel`."""
        return text_vectors(self._backbone, titles)[1:].numpy()

    def kept(self, limit: int) -> Kept | None:
        """See `llm_tower.LanguageModel`; none where the layers are not Llama's, too."""
        if self.decoder is None:
            return None
        yardstick = self._yardstick
        tried = Kept(TorchLayers(self.decoder, yardstick.item_inputs, self._user_out), UNLIMITED)

        def coming_back() -> Tensor:
            pairs = zip(yardstick.histories, yardstick.times, strict=True)
            prompts = [yardstick.prompts.users([items], [times]) for items, times in pairs]
            return self._tensor(np.concatenate([tried.read_out(prompt) for prompt in prompts]))

        plain = yardstick.plain[: len(yardstick.histories)]
        if not yardstick.right(coming_back, plain, "users' prompts are not kept: with them,"):
            return None
        return Kept(TorchLayers(self.decoder, self._item_inputs.__getitem__, self._user_out), limit)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _load_adapter(model: torch.nn.Module, bundle: Bundle) -> None:
    """Copy the bundle's LoRA tensors into a backbone that has just been given adapters."""
    path = bundle.folder / "adapter.safetensors"
    tensors = load_file(path)
    adapters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if tensors.keys() != adapters.keys():
        raise DataError(
            f"{path} does not fit the backbone: {sorted(tensors.keys() ^ adapters.keys())[:3]}; export again."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            adapters[name].copy_(tensor)
