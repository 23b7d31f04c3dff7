"""What is to be imported: files, columns and target, with all that can be wrong before a row is read."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmsrec.data.imports import columns as naming
from llmsrec.data.imports import formats
from llmsrec.data.imports.columns import FLAGS, OF_ITEMS
from llmsrec.data.imports.sources import Source, Writing, look
from llmsrec.errors import RequestError
from llmsrec.files import read_json


@dataclass(frozen=True)
class Request:
    """An import.

    Attributes:
        files: of events, all with the same columns.
        to: folder of the result.
        category: the name by which `data.category` finds it.
        items: a catalogue of its own; None takes titles from the events.
        format: a name in `formats.FORMATS`; None looks at the content.
        columns: role -> column as stated; "" leaves out a role that the format has.
        item_id: the column of `items` with the ids; None: called as in the events.
        writing: how text files are written.
        unit: of numeric times; None looks at the whole column.
        form: how times are written; None: numbers or ISO 8601.
        zone: of times that state none.
        skip_bad: leave out rows that cannot be read.
    """

    files: Sequence[Path]
    to: Path
    category: str
    items: Path | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    item_id: str | None = None
    writing: Writing = field(default_factory=Writing)
    unit: str | None = None
    form: str | None = None
    zone: str = "UTC"
    skip_bad: bool = False

    def outputs(self) -> tuple[Path, Path, Path]:
        """The files of events and of items, and the manifest."""
        names = (f"{self.category}.jsonl.gz", f"meta_{self.category}.jsonl.gz", f"{self.category}.manifest.json")
        events, items, manifest = (self.to / name for name in names)
        return events, items, manifest


@dataclass(frozen=True)
class Part:
    """A file to read: how it is written, its format if that has a name, and role -> column."""

    source: Source
    known: str | None
    columns: Mapping[str, str]


def check_target(request: Request) -> bool:
    """Whether an import of this name is there, which this one would replace.

    Raises:
        RequestError: the name is no category, or files are there that no import has written.
    """
    if not request.category[:1].isalnum() or not request.category.replace("_", "").replace("-", "").isalnum():
        raise RequestError(f"--category {request.category!r} must be letters, digits, - and _, such as Shop.")
    if not request.category.isascii() or len(request.category) > 100 or request.category.startswith("meta_"):
        raise RequestError(
            f"--category {request.category!r} must be at most 100 ASCII characters and not begin with meta_."
        )
    files = [path for path in (request.to, *request.to.parents) if path.exists() and not path.is_dir()]
    if files:
        raise RequestError(f"--to {request.to}: {files[0]} is a file; name a folder.")
    events, items, manifest = request.outputs()
    for plain in (events.with_suffix(""), items.with_suffix("")):
        if plain.exists():
            raise RequestError(
                f"{plain} is there, and no import wrote it: move it away, or choose another --category or --to."
            )
    present = [path for path in (events, items) if path.exists()]
    if present and not (manifest.exists() and read_json(manifest).get("written_by") == "llmsrec import"):
        raise RequestError(
            f"{present[0]} is there, and no import wrote it ({manifest.name} is missing): move it away, or choose "
            "another --category or --to."
        )
    sources = {path.resolve() for path in (*request.files, *([request.items] if request.items else []))}
    if sources & {events.resolve(), items.resolve()}:
        raise RequestError(f"{request.to} holds the import's own source; choose another --category or --to.")
    return bool(present)


def unnamed(request: Request) -> RequestError:
    """The error for an import without a category, with the whole command to begin with.

    Raises:
        RequestError: columns are not stated either.
        DataError: a file that cannot be read.
    """
    words = re.findall("[A-Za-z0-9]+", request.files[0].name.partition(".")[0])
    named = replace(request, category="".join(word[0].upper() + word[1:] for word in words)[:100] or "Shop")
    open_events(named)
    return RequestError(f"state with --category what data.category will be. Perhaps: {_command(named)}")


def open_events(request: Request) -> list[Part]:
    """The files of events.

    Raises:
        RequestError: user, item or time is not stated, or a column is not there.
        DataError: a file that cannot be read.
    """
    if not request.items:
        if request.item_id:
            raise RequestError("--item-id names a column of the catalogue; give that file with --items.")
        roles: tuple[str, ...] = tuple(FLAGS)
    else:
        roles = tuple(role for role in FLAGS if role not in OF_ITEMS)
    parts = []
    for path in request.files:
        source, known = _look(request, path)
        taken = _columns(request, source, known, roles, catalogue=False)
        if not all(role in taken for role in naming.REQUIRED):
            command = _command(_completed(request, source.names, taken))
            raise naming.missing(path, source.names, taken, command)
        parts.append(Part(source, known, taken))
    if len({tuple(sorted(part.columns)) for part in parts}) > 1:
        raise RequestError(
            f"{parts[0].source.path} and the other files differ in the columns that they have; import them one by one "
            "into different categories, or state columns that all of them have."
        )
    return parts


def open_catalogue(request: Request, known: str | None) -> Part | None:
    """The catalogue, if it is a file of its own; `known` is the format of the events.

    Raises:
        RequestError: its column of ids is not stated, or a column is not there.
        DataError: a file that cannot be read.
    """
    if request.items is None:
        return None
    source, _ = _look(request, request.items, known)
    taken = _columns(request, source, known, OF_ITEMS, catalogue=True)
    stated = request.item_id or (None if "item" in taken else request.columns.get("item"))
    if stated is not None:
        flag = "--item-id" if request.item_id else "--item-id (else as in the events: --item)"
        taken |= naming.resolve(source.path, source.names, {"item": stated}, {"item": flag})
    if "item" not in taken:
        guess = naming.guessed("item", source.names) or "<the column of ids>"
        raise RequestError(
            f"{source.path}: state with --item-id which column holds the items' ids. Its columns are "
            f"{naming.listed(source.names)}. Perhaps: --item-id {shlex.quote(guess)}"
        )
    return Part(source, known, taken)


def _look(request: Request, path: Path, known: str | None = None) -> tuple[Source, str | None]:
    """How a file is written, and the name of its format."""
    source = look(path, request.writing)
    if known is None:
        recognised = formats.recognised(source.names, source.kind)
        known = request.format or (recognised.name if recognised else None)
    if known == "recbole" and source.dialect is not None:  # its titles hold quotes that are never closed
        source = look(path, replace(request.writing, delimiter=request.writing.delimiter or "\t", quote=None))
    return source, known


def _columns(
    request: Request, source: Source, known: str | None, roles: Sequence[str], catalogue: bool
) -> dict[str, str]:
    """Role -> column: those of the format, and over them those that are stated."""
    taken = formats.columns(formats.FORMATS[known], source.names, catalogue) if known else {}
    stated = {role: column for role, column in request.columns.items() if role in roles}
    dropped = [role for role, column in stated.items() if not column]
    if any(role in naming.REQUIRED for role in dropped):
        raise RequestError(f"{FLAGS[dropped[0]]} '' names no column; each event has a user, an item and a time.")
    resolved = naming.resolve(source.path, source.names, {r: c for r, c in stated.items() if c}, FLAGS)
    wanted = (*roles, "item") if catalogue else roles
    return {role: column for role, column in {**taken, **resolved}.items() if role in wanted and role not in dropped}


def _completed(request: Request, names: Sequence[str], taken: Mapping[str, str]) -> Request:
    """The request with a column for each that is missing: a guess, or words for it.

    Args:
        names: the columns of the events' file.
        taken: role -> column of it that is known.

    Raises:
        DataError: the catalogue cannot be read.
    """
    columns = {**request.columns, **taken}
    if request.items is None:
        return replace(request, columns=naming.completed(columns, names, naming.REQUIRED, ("title",)))
    columns = naming.completed(columns, names, naming.REQUIRED)
    catalogue, known = _look(request, request.items)
    if known:
        return replace(request, columns=columns)
    item_id = request.item_id
    if item_id is None and columns["item"] not in catalogue.names:
        item_id = naming.completed({}, catalogue.names, ("item",))["item"]
    left = [name for name in catalogue.names if name not in (item_id, columns["item"])]
    return replace(request, columns=naming.completed(columns, left, (), ("title",)), item_id=item_id)


def _command(request: Request) -> str:
    """The command that states the request, without what is the default."""
    words: list[str | Path] = ["llmsrec", "import", *request.files]
    for role in FLAGS:
        if role in request.columns:
            words += [FLAGS[role], request.columns[role]]
    quote = request.writing.quote
    stated = {
        "--items": request.items,
        "--item-id": request.item_id,
        "--time-unit": request.unit,
        "--time-format": request.form,
        "--time-zone": None if request.zone == "UTC" else request.zone,
        "--format": request.format,
        "--delimiter": "tab" if request.writing.delimiter == "\t" else request.writing.delimiter,
        "--quote": None if quote == Writing().quote else quote or "none",
        "--encoding": request.writing.encoding,
    }
    for flag, value in stated.items():
        if value is not None:
            words += [flag, value]
    if request.skip_bad:
        words.append("--skip-bad")
    words += ["--to", request.to, "--category", request.category]
    return shlex.join(map(str, words))
