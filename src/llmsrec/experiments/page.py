"""Tables, claims and pictures as one HTML page that needs no network, and as Markdown."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from llmsrec.evaluation import tables as as_text
from llmsrec.evaluation.plots import save
from llmsrec.evaluation.tables import Table
from llmsrec.experiments.section import Claim, Section
from llmsrec.files import atomic

HEADER = ("claim", "figure", "here")
TEMPLATE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-size: 13px }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto } img { max-width: 100% } .note { color: #555; font-size: 13px }
.holds { color: #00694b } .contradicted { color: #a33c00 } .noise { color: #555 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ intro }}</p>
<ul>{% for part in sections %}<li><a href="#s{{ loop.index }}">{{ part.title }}</a></li>{% endfor %}</ul>
{% for part in sections %}<h2 id="s{{ loop.index }}">{{ part.title }}</h2>
{% if part.claims %}<div class="wide"><table><tr><th>claim</th><th>figure</th><th>here</th></tr>
{% for claim in part.claims %}<tr><td>{{ claim.text }}</td><td>{{ claim.figure }}</td>
<td class="{{ claim.verdict.split()[-1] }}">{{ claim.verdict }}</td></tr>{% endfor %}</table></div>{% endif %}
{% for picture in pictures[loop.index0] %}
<img alt="{{ part.title }}" src="data:image/png;base64,{{ picture }}">{% endfor %}
{% for table in part.tables %}<h3>{{ table.title }}</h3>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
<div class="wide"><table><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% endfor %}{% endfor %}</body></html>
"""


def write(folder: Path, title: str, sections: list[Section], missing: list[str], about: str = "") -> Path:
    """page.html, page.md and the pictures.

    Args:
        missing: titles of what is not there.
        about: what it was made on.

    Returns:
        The page.
    """
    pictures = [[_png(figure) for figure in part.pictures.values()] for part in sections]
    for number, part in enumerate(sections, start=1):
        for name, figure in part.pictures.items():
            save(figure, folder / f"{number}-{name}.png")
    encoded = [[base64.b64encode(picture).decode() for picture in of_part] for of_part in pictures]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE)
    html = template.render(title=title, intro=_intro(missing, about), sections=sections, pictures=encoded)
    with atomic(folder / "page.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    write_markdown(folder / "page.md", title, sections, missing, about, pictures=True)
    return folder / "page.html"


def write_markdown(
    path: Path, title: str, sections: list[Section], missing: list[str], about: str = "", pictures: bool = False
) -> None:
    """The page as Markdown.

    Args:
        missing, about: as in `write`.
        pictures: whether they lie beside the file, as `write` puts them.
    """
    parts = [f"# {title}\n\n{_intro(missing, about)}\n"]
    for number, part in enumerate(sections, start=1):
        images = [f"![{part.title}]({number}-{name}.png)\n\n" for name in part.pictures] if pictures else []
        parts.append(f"## {part.title}\n\n{''.join(images)}{as_text.markdown(_tables(part))}")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


def _intro(missing: list[str], about: str) -> str:
    intro = f"{about} " if about else ""
    intro += (
        "Protocol in every table's title; all users; how many seeds a row has is said above its table. Whether a claim "
        "holds is decided by its interval."
    )
    return f"{intro} Not run: {'; '.join(missing)}." if missing else intro


def text(sections: list[Section]) -> str:
    """For a terminal."""
    return "\n\n".join(f"{part.title}\n\n{as_text.text(_tables(part))}" for part in sections)


def _tables(part: Section) -> list[Table]:
    claims = [_row(claim) for claim in part.claims]
    return [*([Table("Claims", HEADER, claims)] if claims else []), *part.tables]


def _row(claim: Claim) -> tuple[str, ...]:
    return claim.text, claim.figure, claim.verdict


def _png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})  # type: ignore[attr-defined]
    return buffer.getvalue()
