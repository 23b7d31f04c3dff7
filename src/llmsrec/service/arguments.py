"""The arguments of `llmsrec serve`."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from llmsrec.errors import RequestError


def add(command: argparse.ArgumentParser) -> None:
    """Give the parser what it takes."""
    command.add_argument("model", help="models:/<name>@<alias>, which is followed, or models:/<name>/<version>")
    command.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    command.add_argument("--port", type=int, default=8080, help="0 chooses a free one (default: %(default)s)")
    command.add_argument(
        "--no-llm", action="store_true", help="do not load the backbone; `tower: llm` and `blend` are a 400 then"
    )
    command.add_argument(
        "--torch",
        action="store_true",
        help="run the backbone on torch, as on a GPU, and not on ONNX Runtime where the version has it for that",
    )
    command.add_argument(
        "--waiting", type=int, default=512, metavar="N",
        help="requests that may wait for a tower; more are a 429 (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--kept", type=int, default=256, metavar="MB",
        help="memory for keys and values of users' prompts, so that who comes back costs less (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--deadline", type=float, default=10.0, metavar="S", help="seconds for a call (default: %(default)s)"
    )
    command.add_argument(
        "--poll",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds between looks at the alias (default: %(default)s)",
    )
    command.add_argument(
        "--drain", type=float, default=2.0, metavar="S",
        help="seconds between SIGTERM, when /readyz turns 503, and the end of new calls (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--allow-host", nargs="+", default=[], metavar="NAME",
        help="other names in a Host header than the address and localhost; * allows all",
    )  # fmt: skip
    command.add_argument(
        "--users", type=Path, metavar="FILE",
        help="histories as `llmsrec score --histories` reads them, for POST /users/{id}; read once, at the start",
    )  # fmt: skip
    command.add_argument("--token-file", type=Path, metavar="FILE", help="a bearer token (or LLMSREC_TOKEN holds it)")
    command.add_argument(
        "--log-requests", type=Path, metavar="FILE", help="append a share of the requests, for `llmsrec drift`"
    )
    command.add_argument(
        "--log-share", type=float, default=0.01, metavar="SHARE", help="of the users (default: %(default)s)"
    )


def check(options: argparse.Namespace) -> None:
    """Raise RequestError for a number that cannot be meant, or for what is not installed."""
    if options.torch and not find_spec("torch"):
        raise RequestError(
            "--torch: torch is not installed here; `pip install -r requirements-torch.txt`, or leave --torch out."
        )
    limits = {"port": (0, 65535), "waiting": (1, 10**6), "deadline": (0.01, 3600), "poll": (0.1, 86400)}
    limits |= {"drain": (0, 600), "log_share": (0, 1), "kept": (0, 10**6)}
    for name, (least, most) in limits.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise RequestError(f"--{name.replace('_', '-')} is {value:g}; give {least:g} to {most:g}.")
