"""MLflow's autologging in workers, as the page about traces has it; run where MLflow is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import dspex
from tests.blocks import blocks, write_files
from tests.provider import Provider
from tests.tracing import kept

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "tracing.md"


def test_mlflow_logs_the_calls_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, who follows the page would find no trace in MLflow, or lose those of dspex."""
    mlflow = pytest.importorskip("mlflow", reason="CI has it: uv run --with mlflow")
    pytest.importorskip("mlflow.dspy")
    write_files(blocks(PAGE), tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    options = dspex.PoolOptions(workers=1, preload=["shop.autolog"], pass_env=["MLFLOW_TRACKING_URI"])
    with Provider() as provider:
        lm = dspex.LM("openai/x", api_key="k", base_url=provider.base_url)
        with dspex.Runtime(lm, pools={"general": options}, start_timeout=100) as runtime, kept() as spans:
            for _ in range(2):
                runtime.adapter(timeout=60.0).generate("q", signature="question -> answer")
            assert len(spans.named("chat x")) == 2
    found = mlflow.search_traces(locations=["0"], return_type="list")
    assert [next(span.name for span in one.data.spans) for one in found] == ["Predict.forward"] * 2
