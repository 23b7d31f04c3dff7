"""Where the registry is, and whether it answers: asked before MLflow is, whose own clients try for minutes."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

import requests
import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from llmsrec.errors import DataError
from llmsrec.registry import greeting

# `dvc repro` looks at files alone: in a clone it runs nothing, however empty the registry is.
REMEDY = "`dvc repro` makes what is missing, and where it runs nothing `dvc repro -f -s register` does, from the files"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI where it is set, or this repository's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own(root)


def own_database(root: Path) -> Path:
    """A repository's own database file."""
    return root / "mlruns/mlflow.db"


def own(root: Path) -> str:
    """The URL of a repository's own database."""
    return sqlite_url(own_database(root))


def sqlite_url(path: Path) -> str:
    """A database file's URL; a folder may be called `a?b` or `50%20`, which means something else in a URL."""
    url = URL.create("sqlite", database=str(path))
    if str(path) in url.render_as_string():
        return url.render_as_string()
    # MLflow takes what follows `sqlite:///` for a path, and would make an empty folder of the quoted name.
    return url.set(drivername="sqlite+pysqlite").render_as_string()


def require(root: Path) -> None:
    """Raise DataError where there is no registry: MLflow would take seconds to make an empty one."""
    uri, path = tracking_uri(root), own_database(root)
    if uri == own(root) and not path.exists():
        raise DataError(f"no registry at {path}; {REMEDY}, or set MLFLOW_TRACKING_URI.")
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise DataError(f"no registry at {uri}, which MLFLOW_TRACKING_URI names; set it to a database that is there.")


def sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite URL, also where SQLite itself is given a URL (`sqlite:///file:/a/b.db?mode=ro&uri=true`).

    None where it is no sqlite URL or names a database in memory.
    """
    if not uri.startswith("sqlite"):
        return None
    database = sqlalchemy.make_url(uri).database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").removeprefix("//").partition("?")[0])
    return Path(database) if database and ":memory:" not in database else None


def reachable(root: Path) -> None:
    """Greet the registry, if it is a server or a server's database.

    Raises:
        DataError: nobody answers within `greeting.ANSWER_S`.
    """
    uri = tracking_uri(root)
    try:
        if uri.startswith(("http://", "https://")):
            greeting.greet(uri)
        elif "://" in uri:
            _greet_database(uri)
    except (requests.RequestException, SQLAlchemyError, ImportError, ValueError) as error:
        raise DataError(
            f"the registry at {uri} does not answer: {reason(error)}. See that it runs, that MLFLOW_TRACKING_URI is "
            "right and that what it needs to be reached is installed, then run the command again."
        ) from error


def _greet_database(uri: str) -> None:
    backend = sqlalchemy.make_url(uri).get_backend_name()
    if backend in ("postgresql", "mysql"):
        engine = sqlalchemy.create_engine(
            uri, connect_args={"connect_timeout": greeting.ANSWER_S}, poolclass=sqlalchemy.NullPool
        )
        with engine.connect():
            pass


def reason(error: BaseException) -> str:
    """The innermost cause in few words: what libraries wrap around it is long and says no more."""
    if isinstance(error, requests.Timeout):
        return f"nothing came back within {greeting.ANSWER_S} s"
    if type(error) is requests.ConnectionError:
        cause = re.search(r"(\[Errno -?\d+\] [^'\")]+|[^:('\"]+(?=['\")]*$))", str(error))
        return cause[1].strip() if cause else type(error).__name__
    lines = str(error).splitlines() or [type(error).__name__]
    # A database's own words, such as `(sqlite3.OperationalError) disk I/O error`, stand behind SQLAlchemy's.
    return next((line for line in lines if re.match(r"\([\w.]+Error\) ", line)), lines[0]).rstrip(".")
