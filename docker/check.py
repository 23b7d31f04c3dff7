"""Build the images without a Docker engine, run them, and print their sizes.

    sudo python docker/check.py [--storage FOLDER] [BUNDLE]

Needs root, Debian's buildah (and debootstrap, where the base image is not in the storage yet), this repository's .venv
for the client's side, and a bundle: models/bundle, unless another one is named.

An image runs here as a container engine runs it: with its own user, environment, command and root folder, as process 1
of its own process namespace, so that signals mean what they mean there. The network is the host's.
"""

import argparse
import configparser
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl

from llmsrec.registry import tracking
from llmsrec.registry.record import Record

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
DEBIAN = "bookworm"
SERVING = ("serve", "serve-torch")
TOWERS = ("cf", "teacher", "llm")


class Buildah:
    """Debian's buildah with everything it keeps in one folder."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self._command = [
            "buildah", "--storage-driver", "vfs", "--root", str(storage / "images"), "--runroot", str(storage / "run"),
        ]  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        return image in self("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()

    def base(self, image: str) -> None:
        """Make the Dockerfile's base image from Debian's packages, once."""
        if self.has(image):
            return
        root = self.storage / "base"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(root)], check=True)
        container = self("from", "scratch")
        self("add", "-q", container, str(root), "/")
        self("commit", "-q", "--rm", container, image)
        shutil.rmtree(root)

    def build(self, target: str) -> str:
        """Build a target; the package index's client settings are mounted, and no layer holds them."""
        name, settings = f"localhost/llmsrec-{target}", self.storage / "pip"
        mounts = client_settings(settings)
        try:
            self(
                "build", "-q", "--isolation", "chroot", "--format", "docker", "--layers", "--target", target,
                *(f"--volume={source}:{place}:ro" for source, place in mounts.items()), "-t", name, str(REPOSITORY),
            )  # fmt: skip
        finally:
            shutil.rmtree(settings)
        return name


class Container:
    """A container of an image, not yet running anything."""

    def __init__(self, buildah: Buildah, image: str) -> None:
        self._buildah = buildah
        self.name = buildah("from", "-q", image)
        self.root = Path(buildah("mount", self.name))
        self.config: dict[str, Any] = json.loads(buildah("inspect", self.name))["Docker"]["config"]

    def start(self, command: list[str], **environment: str) -> "subprocess.Popen[bytes]":
        """Start `command` as process 1 with the image's user and environment."""
        variables = [*self.config["Env"], *(f"{key}={value}" for key, value in environment.items())]
        # The shell becomes the command: no process in between that would hold signals back.
        script = (
            'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && '
            'exec chroot --userspec="$1" "$0" env -i -C "$2" "${@:3}"'
        )
        arguments = [str(self.root), self.config["User"], self.config["WorkingDir"], "HOME=/home/llmsrec", *variables]
        namespace = ["unshare", "--mount", "--pid", "--fork", "bash", "-c", script]
        return subprocess.Popen([*namespace, *arguments, *command])

    def healthy(self) -> bool:
        """What the image's HEALTHCHECK says now."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.start(command).wait() == 0

    def remove(self) -> None:
        self._buildah("rm", self.name)


def client_settings(folder: Path) -> dict[Path, str]:
    """pip's settings here as what to mount where: a pip.conf, and the local folders and files that it names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    options: dict[str, str] = {}
    mounts: dict[Path, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        words = value.strip("'\"").split()
        for number, word in enumerate(words):
            scheme = "file://" if word.startswith("file://") else ""
            path = Path(unquote(word.removeprefix(scheme)) if scheme else word)
            if path.is_absolute() and path.exists():
                # An index in a folder links to files beside it.
                mounted = path.parent if scheme else path
                place = Path(mounts.setdefault(mounted, f"/mnt/pip/{len(mounts)}")) / path.relative_to(mounted)
                words[number] = scheme + (quote(str(place)) if scheme else str(place))
        options[key.rpartition(".")[2]] = " ".join(words)
    parser = configparser.RawConfigParser()
    parser["global"] = options
    with (folder / "pip.conf").open("w") as handle:
        parser.write(handle)
    return {**mounts, folder / "pip.conf": "/etc/pip.conf"}


@contextmanager
def running(container: Container, command: list[str], **environment: str) -> Iterator[None]:
    """Run a service until it is healthy; afterwards stop it with SIGTERM and see status 0."""
    assert not container.healthy(), "the port is taken, or the health check is green with nothing there"
    process = container.start(command, **environment)
    try:
        start = time.monotonic()
        until(lambda: process.poll() is not None or container.healthy())
        assert process.poll() is None, f"{container.name} ended with status {process.returncode}"
        print(f"  healthy after {time.monotonic() - start:.0f} s", flush=True)
        yield
        start = time.monotonic()
        os.kill(first(process), signal.SIGTERM)
        status = process.wait(timeout=60)
        print(f"  SIGTERM: status {status} after {time.monotonic() - start:.1f} s", flush=True)
        assert status == 0
    finally:
        if process.poll() is None:
            os.kill(first(process), signal.SIGKILL)  # and with it everything in its namespace
            process.wait()
        container.remove()


def first(process: "subprocess.Popen[bytes]") -> int:
    """The pid here of what is process 1 there: the only child of `unshare`."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def until(holds: Callable[[], bool], seconds: int = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(1)


def ask(bundle: Path, tower: str) -> tuple[int, Any]:
    """Ask the service for recommendations to someone who bought the bundle's first two items."""
    asins = pl.read_parquet(bundle / "items.parquet")["parent_asin"].head(2)
    history = [{"parent_asin": asin, "timestamp": 1_391_040_000_000} for asin in asins]
    body = json.dumps({"inputs": [{"history": history, "k": 3, "tower": tower}]}).encode()
    request = urllib.request.Request("http://127.0.0.1:8080/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def register(bundle: Path, root: Path) -> None:
    """The bundle as a version of llm-srec with the alias `staging`, on the server that MLFLOW_TRACKING_URI names."""
    record = Record(digest="0" * 64, name="images", params={}, evaluation={}, curve=[])
    with tracking.connected(root) as client:
        place = tracking.experiment(client, "images", root)
        run = tracking.ensure_run(client, place, record)
        version = tracking.ensure_version(client, place, run, "llm-srec", bundle, {})
        client.set_registered_model_alias("llm-srec", "staging", str(version))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the images without an engine and run them.")
    parser.add_argument("bundle", nargs="?", type=Path, default=REPOSITORY / "models/bundle")
    parser.add_argument("--storage", type=Path, default=Path("/var/tmp/llmsrec-images"))
    options = parser.parse_args()
    buildah = Buildah(options.storage)
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    buildah.base("docker.io/library/" + next(line.split()[1] for line in lines if line.startswith("FROM ")))
    images = {}
    for target in ("mlflow", *SERVING, "train"):
        start = time.monotonic()
        images[target] = buildah.build(target)
        print(f"{target}: built in {time.monotonic() - start:.0f} s", flush=True)

    print("mlflow, on sqlite and a folder in the container")
    server = Container(buildah, images["mlflow"])
    store = ["--backend-store-uri", "sqlite:////tmp/mlflow.db", "--artifacts-destination", "/tmp/artifacts"]
    uri = os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:5000"
    with running(server, [*server.config["Cmd"], *store], MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        register(options.bundle, options.storage)
        for target in SERVING:
            print(target)
            service = Container(buildah, images[target])
            with running(service, service.config["Cmd"], MLFLOW_TRACKING_URI=uri):
                for tower in TOWERS:
                    status, answer = ask(options.bundle, tower)
                    assert status == 200, answer
                    print(f"  {tower}: {status} {json.dumps(answer, ensure_ascii=False)[:150]}")

    print("train")
    trainer = Container(buildah, images["train"])
    assert trainer.start(["dvc", "repro", "split"]).wait() == 0
    trainer.remove()
    print(buildah("images", "--format", "{{.Name}}  {{.Size}}"))


if __name__ == "__main__":
    main()
