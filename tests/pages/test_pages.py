"""The pages that people are sent to at the end of a run, as a browser shows them. They are of the demo, which CI has run before."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from browser import DRAWN_MS, RESULTS, ROOT, keep
from PIL import Image
from serving import free_port, serving

from earshot import mlflow_pages, variant_metrics
from earshot.files import read_json

CUT_OFF = """names => names.filter(name => [...document.querySelectorAll('a')].some(
    link => link.innerText === name && link.scrollWidth > link.clientWidth + 1))"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> dict:
    """What the track stage says of the demo, logged anew, with links to a server that shows it."""
    if len(list(RESULTS.glob("variants/*/*/*/metrics.json"))) < 4:
        pytest.skip(f"{RESULTS}: not the demo's variants; run the demo first, or set EARSHOT_RESULTS")
    folder = tmp_path_factory.mktemp("pages")
    store = f"sqlite:///{folder}/mlflow.db"
    words = [f"results={RESULTS}", "experiment_name=demo", f"tracking.uri={store}", f"out={folder}/tracked.json"]
    done = subprocess.run([sys.executable, "-m", "earshot.stages.track", *words], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "tracked.json").read_text())
    assert all(link in done.stdout for link in content["links"].values()), "the run prints the links"
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # they start seven processes
    with serving(command, f"http://127.0.0.1:{port}/health", folder / "ui.log", folder, environment):
        yield content | {"uri": f"http://127.0.0.1:{port}"}


def names(logged: dict) -> list[str]:
    from earshot.naming import variant_names

    return list(variant_names(logged["variants"]).values())


def test_the_table_of_runs(logged, page, shown):
    text = shown("mlflow_runs", mlflow_pages.links(logged, {})["table"], *names(logged))
    for column in (*mlflow_pages.CHOICES, *mlflow_pages.METRICS):
        assert f"\n{column}\n" in text, f"{column} is no column"
    of_rows = sorted(zip(names(logged), logged["variants"], strict=True), key=lambda pair: text.index(pair[0]))
    rates = [variant_metrics.figures(read_json(RESULTS / "variants" / variant / "metrics.json"))["wer"] for _, variant in of_rows]
    assert rates == sorted(rates), "best word error rate first"
    assert not page.evaluate(CUT_OFF, names(logged)), "names are cut off"


def test_the_comparison_of_four_variants(logged, shown):
    four = dict(list(logged["variants"].items())[:4])
    text = shown("mlflow_compare", mlflow_pages.links(logged | {"variants": four}, {})["compare"], "Comparing 4 Runs", *names(logged)[:4])
    assert "Metrics:\nwer\n" in text, "the word error rate is what is compared first"
    assert "\nquant\nscheme\n" in text.partition("Metrics:\n")[0], "by the choices that differ"


def test_the_pareto_page(logged, page, shown):
    shown("mlflow_pareto", mlflow_pages.links(logged, {})["pareto"], "pareto.html")
    points = page.frame_locator("iframe").locator(".scatterlayer .point")
    points.first.wait_for()
    page.wait_for_timeout(DRAWN_MS)
    keep(page, "mlflow_pareto")
    assert points.count() >= len(logged["variants"])


def test_the_registered_models(logged, shown):
    link = mlflow_pages.links(logged, logged["registered"])["models"]
    assert logged["registered"]["winner"]["variant"] in shown("mlflow_models", link, "Version 1", "winner")


def test_snakemakes_report(page, tmp_path):
    """Its plots are shown, and not blank."""
    if not (RESULTS.parent / ".snakemake" / "metadata").exists():
        pytest.skip(f"{RESULTS.parent}: no Snakemake has run there; run the demo first, or set EARSHOT_RESULTS")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--directory", str(RESULTS.parent)]
    done = subprocess.run(
        [*command, "--cores", "1", "--report", str(tmp_path / "report.html")], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    page.goto(f"file://{tmp_path}/report.html", wait_until="commit")
    page.get_by_text("Plots", exact=True).first.click()
    eyes = page.locator("a[iconname=eye]")
    eyes.first.wait_for()
    for at, name in enumerate(("wer_by_form", "wer_latency", "wer_memory")):
        eyes.nth(at).click()
        plot = page.locator(f"img[src*='{name}.svg']")
        plot.wait_for()
        page.wait_for_function("image => image.complete && image.naturalWidth > 300", arg=plot.element_handle())
        keep(page, f"snakemake_{name}")
        colours = Image.open(io.BytesIO(plot.screenshot())).convert("RGB").getcolors(1 << 24)
        background = max(count for count, _ in colours)
        assert len(colours) > 20 and background < 0.99 * sum(count for count, _ in colours), f"{name} is blank"
