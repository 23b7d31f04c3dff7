"""MLflow's own pages in headless Chromium: what a person sees of two runs, without any preparation."""

from typing import Any

import pytest
from mlflow import MlflowClient

from docs import screenshots
from llmsrec.registry import view

pytestmark = pytest.mark.skipif(
    screenshots.CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium"
)


def test_the_compare_page_shows_both_runs_parameter_and_metric(pair: Any) -> None:
    client = MlflowClient(pair.uri)
    runs = [client.get_run(run_id) for run_id in (pair.full, pair.ablated)]
    with screenshots.served(pair.uri) as address, screenshots.browser() as page:
        screenshots.open_comparison(page, address, [pair.full, pair.ablated], runs[0].info.experiment_id)
        parameter = page.get_by_role("row").filter(has_text="model.uniform")
        parameter.wait_for()
        assert sorted(parameter.inner_text().split()) == ["False", "True", "model.uniform"]
        page.get_by_role("link", name="test/uni99/ndcg_10", exact=True).wait_for()  # its row among the metrics
        for run in runs:
            value = f"{run.data.metrics['test/uni99/ndcg_10']:.5f}"  # in the plot, which takes this metric by itself
            for shown in (run.info.run_name, value):
                page.get_by_text(shown, exact=True).first.wait_for()


def test_the_list_of_runs_has_a_view_with_metrics(pair: Any) -> None:
    client = MlflowClient(pair.uri)
    experiment = client.get_run(pair.full).info.experiment_id
    with screenshots.served(pair.uri) as address, screenshots.browser() as page:
        page.set_viewport_size({"width": 2400, "height": 1000})
        page.goto(f"{address}/#/experiments/{experiment}/runs")
        page.get_by_role("button", name="Views").click()
        page.get_by_text(view.NAME, exact=True).click()
        for run_id in (pair.full, pair.ablated):
            value = client.get_run(run_id).data.metrics["test/full/ndcg_10"]
            page.get_by_text(f"{value:.6f}"[:-1]).first.wait_for()
        for column in ("test/uni99/ndcg_10", "test/full/ndcg_10", "test/full/hr_10", "Version"):
            page.get_by_text(column, exact=True).first.wait_for()
