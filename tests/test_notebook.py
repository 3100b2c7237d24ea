"""The Colab notebook runs from top to bottom, on the synthetic faces and on a Kaggle file beside it."""

from pathlib import Path

import pytest

from tests.faces import write_fer2013

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("data", [pytest.param("synthetic", marks=pytest.mark.slow), "fer2013"])
def test_the_notebook_runs_from_top_to_bottom(data, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("FER_JAX_EPOCHS", "1")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    if data == "fer2013":
        write_fer2013(tmp_path, train=140)
    notebook = nbformat.read(ROOT / "colab/train.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert ("training on SYNTHETIC faces" in text) == (data == "synthetic")
    assert f"mini_xception on {data}" in text
    assert (tmp_path / f"runs/colab-{data}/weights.safetensors").exists()
    assert not any(cell.get("outputs") for cell in nbformat.read(ROOT / "colab/train.ipynb", as_version=4).cells)
