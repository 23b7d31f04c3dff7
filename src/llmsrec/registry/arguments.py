"""Arguments of all commands that are about a registered version."""

import argparse


def add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", help="a version's number or alias, or shop/5, shop@staging, models:/shop/5")
    add_model(command)


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="NAME", help="the registered model (default: `registry.model`)")
