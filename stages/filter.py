"""Raw events to interactions with dense ids: repeats, a sample of users, the k-core, cleaned titles."""

from pathlib import Path

from llmsrec.data.five_core import filter_reviews
from stages.common import Stage, run

RAW, OUT = Path("data/raw"), Path("data/filtered")


def main(stage: Stage) -> None:
    """Filter, and print the counts after each step."""
    data = stage.params.data
    manifest = filter_reviews(
        RAW, OUT, data.core, data.user_fraction, data.seed, data.repeats, cold_fraction=data.cold_fraction
    )
    for step in manifest["steps"]:
        print(f"{step['step']:<20} {step['users']:>12,} users {step['items']:>12,} items {step['events']:>12,} events")
    if held_out := manifest.get("cold"):
        print(
            f"held out of training: {held_out['items']:,} items, which {held_out['users']:,} of these users took "
            f"{held_out['events']:,} times; nobody is asked about them but by `python -m benchmarks.cold_items`"
        )


if __name__ == "__main__":
    run(main, "filter")
