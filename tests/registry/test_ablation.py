"""What each experiment of Table 7 is called and asks of DVC."""

from llmsrec.registry.ablation import experiments


def test_what_each_experiment_says() -> None:
    wanted = experiments(["b", "c"], ["original", "shuffled"], [0, 3])
    assert len(wanted) == len({one.name for one in wanted}) == 8
    assert wanted[0].name == "table7-b-original-s0"
    assert wanted[-1].overrides() == [
        "-S", "model.distill=true", "-S", "model.uniform=true", "-S", "split.shuffle_train=true", "-S", "train.seed=3",
    ]  # fmt: skip
