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
from llmsrec.times import OUTSIDE, are_ms, of_iso

LONGEST_TIME = 20  # characters; Python refuses to read numbers of thousands of digits


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--model",
        default="candidate",
        help="a version: shop/5, shop@staging, or 5 or staging of `registry.model` (default: %(default)s)",
    )
    source.add_argument("--bundle", type=Path, help="folder of a bundle, such as models/bundle")
    command.add_argument(
        "--history", nargs="*", default=[], metavar="ITEM[@TIME]",
        help="id of each item (parent_asin), and after the last @ when it was bought: ms since epoch, or a date or "
        "time such as 2014-01-30 or 2014-01-30T12:00:00Z (default: now)",
    )  # fmt: skip
    command.add_argument("--k", type=int, default=10, help="how many items (default: %(default)s)")
    command.add_argument(
        "--tower",
        help="llm (prompt and backbone), cf (SASRec in its space), teacher (SASRec itself), blend (llm and teacher); "
        "default: the model's first",
    )
    command.add_argument("--category", nargs="+", metavar="NAME", help="items of one of these categories")
    command.add_argument("--store", nargs="+", metavar="NAME", help="items of one of these stores")
    command.add_argument("--with-history", action="store_true", help="recommend items of the history, too")
    command.add_argument(
        "--diversity", type=float, default=0.0, metavar="SHARE",
        help="0 to 1: give up score for items that are unlike one another (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--explain", action="store_true", help="name the item of the history that is nearest to each")
    command.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(history: list[dict[str, Any]], options: argparse.Namespace, bundle: Callable[[], Path]) -> None:
    """Answer one request from a bundle, which is fetched only if the request makes sense, and print the answer."""
    from llmsrec.serving.recommender import Recommender

    requests = schema.parse([{"history": history, **_wishes(options)}])
    (answer,) = Recommender.load(bundle()).recommend(requests)
    if options.json:
        print(json.dumps(answer.model_dump(), ensure_ascii=False))
        return
    for place, item in enumerate(answer.items, start=1):
        print(f"{place:>3}  {item.score:>9.4f}  {item.parent_asin:<12}  {item.title[:80]}")
        if item.because:
            print(f"{'':<16}like {item.because.parent_asin}: {item.because.title[:80]}")
    if answer.fallback:
        print("no item of the history is known: these are the most popular items")
    if answer.unknown:
        print(f"unknown items: {', '.join(answer.unknown)}")


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request but its history."""
    columns = {name: value for name in ("category", "store") if (value := getattr(options, name))}
    wishes = {name: getattr(options, name) for name in ("k", "tower", "diversity", "explain")}
    return (
        wishes | ({"filter": columns} if columns else {}) | ({"exclude_history": False} if options.with_history else {})
    )


def event(text: str) -> dict[str, Any]:
    """An item of --history: `<id>` for now, or `<id>@<time>`, where the id may hold an @ itself."""
    asin, mark, when = text.rpartition("@")
    if not mark:
        return {"parent_asin": text, "timestamp": int(time.time() * 1000)}
    digits, ms = re.fullmatch("-?[0-9]+", when), of_iso(when)
    if digits and len(when) <= LONGEST_TIME:
        ms = int(when)
    if ms is None or not are_ms(ms):
        wrong = (
            f"the time is {OUTSIDE}"
            if digits or ms is not None
            else "no time in ms or of ISO 8601 comes after the last @"
        )
        raise RequestError(
            f"--history {shown(text)}: {wrong}. Write <id>@1391040000000 or <id>@2014-01-30, or <id> alone for now; an "
            "id with an @ in it needs its time."
        )
    if not asin:
        raise RequestError(f"--history {shown(text)}: no item's id comes before the @; write <id>@1391040000000.")
    return {"parent_asin": asin, "timestamp": ms}
