"""A language model of a known shape that has read nothing: its architecture and tokenizer, random weights.

    python -m benchmarks.random_backbone models/backbone .cache/random-backbone

What a pre-trained model knows is the difference to it: `dvc exp run -S backbone.model=.cache/random-backbone`. First
values are those that transformers gives the architecture.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from llmsrec.engine.backbone_files import CONFIG, read_files


def write(source: Path, target: Path, seed: int) -> None:
    """All that `source` holds but its weights, and random weights, to `target`."""
    files = read_files(source, follow=False)
    config = AutoConfig.from_pretrained(files[CONFIG].parent, local_files_only=True)
    torch.manual_seed(seed)
    model = AutoModel.from_config(config, dtype=torch.float32)
    target.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        if not name.endswith((".safetensors", ".index.json")):
            shutil.copyfile(path, target / name)
    model.save_pretrained(target, safe_serialization=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder with config.json and a tokenizer, such as models/backbone")
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    write(asked.source, asked.target, asked.seed)
    print(f"random weights -> {asked.target}")


if __name__ == "__main__":
    main()
