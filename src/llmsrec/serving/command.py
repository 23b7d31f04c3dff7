"""`llmsrec recommend`: its arguments, and the answer for people or as JSON."""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmsrec.errors import RequestError, shown
from llmsrec.serving import schema
from llmsrec.times import OUTSIDE, are_ms

LONGEST_TIME = 20  # characters; Python refuses to read numbers of thousands of digits


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        default="models:/llm-srec@candidate",
        help="a version: shop/5, shop@staging, or 5 or staging of `registry.model` (default: %(default)s)",
    )
    source.add_argument("--bundle", type=Path, help="folder of a bundle, such as models/bundle")
    command.add_argument(
        "--history", nargs="*", default=[], metavar="ITEM[@MS]",
        help="id of each item (parent_asin), and after the last @ when it was bought in ms since epoch (default: now)",
    )  # fmt: skip
    command.add_argument("--k", type=int, default=10, help="how many items (default: %(default)s)")
    command.add_argument(
        "--tower",
        default="llm",
        help="llm (prompt and backbone), cf (SASRec in its space), teacher (SASRec itself); default: %(default)s",
    )
    command.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(history: list[dict[str, Any]], options: argparse.Namespace, bundle: Callable[[], Path]) -> None:
    """Answer one request from a bundle, which is fetched only if the request makes sense, and print the answer."""
    from llmsrec.serving.recommender import Recommender

    requests = schema.parse([{"history": history, "k": options.k, "tower": options.tower}])
    (answer,) = Recommender.load(bundle()).recommend(requests)
    if options.json:
        print(json.dumps(answer.model_dump(), ensure_ascii=False))
        return
    for place, item in enumerate(answer.items, start=1):
        print(f"{place:>3}  {item.score:>9.4f}  {item.parent_asin:<12}  {item.title[:80]}")
    if answer.fallback:
        print("no item of the history is known: these are the most popular items")
    if answer.unknown:
        print(f"not in the catalogue: {', '.join(answer.unknown)}")


def event(text: str) -> dict[str, Any]:
    """An item of --history: `<id>` for now, or `<id>@<ms>`, where the id may hold an @ itself."""
    asin, mark, when = text.rpartition("@")
    if not mark:
        return {"parent_asin": text, "timestamp": int(time.time() * 1000)}
    digits = re.fullmatch("-?[0-9]+", when)
    if not digits or len(when) > LONGEST_TIME or not are_ms(int(when)):
        wrong = f"the time is {OUTSIDE}" if digits else "no time in ms comes after the last @"
        raise RequestError(
            f"--history {shown(text)}: {wrong}. Write <id>@1391040000000, or <id> alone for now; an id with an @ in it "
            "needs its time."
        )
    if not asin:
        raise RequestError(f"--history {shown(text)}: no item's id comes before the @; write <id>@1391040000000.")
    return {"parent_asin": asin, "timestamp": int(when)}
