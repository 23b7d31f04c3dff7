"""The file of new items: JSON lines, plain or gzip, a line an item.

    {"parent_asin": "B0NEW", "title": "Rose Water, 200 ml", "store": "Kumo", "categories": ["Bath", "Toner"]}

`store` and `categories` (or `category`, a text) may be missing. Other fields are not read, so lines of a catalogue can
be taken as they are.
"""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llmsrec.data.catalogue import tidy
from llmsrec.data.json_lines import blocks
from llmsrec.data.titles import UNTITLED
from llmsrec.errors import DataError, shown
from llmsrec.scoring.histories import BYTES, reason
from llmsrec.serving.schema import Id

EXAMPLE = 'a line is {"parent_asin": "B0NEW", "title": "Rose Water", "store": "Kumo", "categories": ["Bath"]}'


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="ignore", strict=True)

    parent_asin: Id = Field(min_length=1)
    title: str
    store: str | None = None
    categories: Annotated[list[str], BeforeValidator(_as_list)] | None = Field(
        default=None, validation_alias=AliasChoices("categories", "category")
    )


def read(path: Path, known: pl.Series) -> pl.DataFrame:
    """The items of a file, in its order: `parent_asin, title, store, categories`, as plain text (`catalogue.tidy`).

    Args:
        known: parent_asins of the catalogue that they are for.

    Raises:
        DataError: no such file, or one that cannot be read or has no items; a line that is not JSON or lacks a field,
            an item without a title, with an id of the catalogue or of a line before. File, line and value are named.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; write one, JSON lines: {EXAMPLE}.")
    lines: dict[str, int] = {}
    rows: list[Line] = []
    catalogue = set(known)
    for first, _, text in blocks(path, BYTES):
        for number, line in enumerate(text.split(b"\n"), start=first):
            if not line.strip():
                continue
            try:
                row = Line.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{path}, line {number}: {reason(error)}; {EXAMPLE}.") from error
            what = f"{path}, line {number}: `parent_asin` is {shown(row.parent_asin)}"
            if row.parent_asin in catalogue:
                raise DataError(f"{what}, which the version's catalogue has already; remove the line.")
            if row.parent_asin in lines:
                raise DataError(f"{what}, as in line {lines[row.parent_asin]}; remove one of the two.")
            lines[row.parent_asin] = number
            rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no items; {EXAMPLE}.")
    items = tidy(pl.DataFrame([row.model_dump() for row in rows], schema=SCHEMA).with_row_index("item_id"))
    for number, title in zip(lines.values(), items["title"], strict=True):
        if title == UNTITLED:
            raise DataError(
                f"{path}, line {number}: the item has no title, which is all that a language model knows of it; give "
                "it one, or remove the line."
            )
    return items.select(SCHEMA.names())


SCHEMA = pl.Schema(
    {"parent_asin": pl.String(), "title": pl.String(), "store": pl.String(), "categories": pl.List(pl.String())}
)
