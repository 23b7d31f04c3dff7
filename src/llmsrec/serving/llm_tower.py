"""The language model as a reader of histories: prompt, backbone, [UserOut], f_user. Only this needs torch to serve."""

from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmsrec.engine import backbone as backbones
from llmsrec.engine.readout import read_out, read_out_by_length
from llmsrec.engine.yardstick import Yardstick
from llmsrec.errors import DataError
from llmsrec.prompts.retrieval import Prompts, PromptSettings
from llmsrec.serving.bundle import Bundle
from llmsrec.serving.towers import History, Teacher


class LLMTower:
    """The prompt of Table 2 through the frozen backbone, and f_user on ONNX Runtime.

    Raises:
        DataError: the backbone cannot be had (see `llmsrec.engine.backbone.load`), or the adapter is not its own.
    """

    def __init__(self, bundle: Bundle) -> None:
        config = bundle.config
        backbone = backbones.load(
            bundle.folder / "backbone", config["backbone"]["dtype"], config["backbone"]["quantization"]
        )
        if config["backbone"]["lora_rank"]:
            backbone = backbones.tuned(backbone, config["backbone"], seed=0)
            _load_adapter(backbone.model, bundle)
        self._model = backbone.model.requires_grad_(False).eval()
        settings = PromptSettings(**config["prompts"])
        self._prompts_of = partial(Prompts, backbone.tokenizer, settings=settings, limit=backbone.limit)
        self._prompts = self._prompts_of(titles=bundle.items["title"].to_list())
        self._device = self._model.get_input_embeddings().weight.device  # type: ignore[operator]
        f_item_input = bundle.models["f_I"]
        parts = np.array_split(bundle.tensors["item_embeddings"], 1 + len(bundle.items) // 1024)
        self._item_inputs = self._tensor(np.concatenate([f_item_input(part) for part in parts]))
        self._unseen = torch.zeros_like(self._item_inputs[0])
        self._user_out, self._item_out = (self._tensor(bundle.tensors[name]) for name in ("user_out", "item_out"))
        self._f_user, self._f_item = bundle.models["f_user"], bundle.models["f_item"]
        self._explicit = settings.user_representation
        if self._explicit:
            self._teacher, self._f_U = Teacher(bundle), bundle.models["f_U"]
        user_inputs = self._some_user_inputs if self._explicit else None
        yardstick = Yardstick(self._model, self._prompts, self._item_inputs.__getitem__, self._user_out, user_inputs)
        self._read_out = read_out if yardstick.padding() else read_out_by_length

    @torch.no_grad()
    def vectors(self, histories: list[History]) -> np.ndarray:
        """`[B, d']` float32 of `B` histories with one item at least."""
        prompts = self._prompts.users([h.items for h in histories], [h.timestamps for h in histories])
        seen = None
        if self._explicit:
            seen = self._user_inputs(histories)
        hidden = self._read_out(self._model, prompts, self._item_inputs.__getitem__, self._user_out, seen)
        return self._f_user(hidden.cpu().numpy())

    @torch.no_grad()
    def of_title(self, title: str) -> np.ndarray:
        """`[d']` float32, the vector of an item with this title that training never saw: its item prompt and f_item.

        Zeros stand for its item embedding: with them, the titles of known items lead to more of these items' own
        neighbours than with the mean of all embeddings.
        """
        prompt = self._prompts_of(titles=[title]).items(np.array([1]))
        hidden = self._read_out(self._model, prompt, lambda slots: self._unseen.expand(len(slots), -1), self._item_out)
        return self._f_item(hidden.cpu().numpy())[0]

    def lengths(self, histories: list[History]) -> np.ndarray:
        """`[B]` about how many tokens each prompt has, for putting prompts of like length together."""
        return self._prompts.user_lengths([h.items for h in histories])

    def _user_inputs(self, histories: list[History]) -> Tensor:
        """f_U(O_u): `[B, d_llm]`."""
        return self._tensor(self._f_U(self._teacher.vectors(histories)))

    def _some_user_inputs(self, count: int) -> Tensor:
        numbers = np.arange(count) % len(self._item_inputs[1:]) + 1
        return self._user_inputs([History(np.array([item]), np.array([0]), []) for item in numbers])

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
