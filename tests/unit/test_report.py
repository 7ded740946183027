"""The report: every variant in it, in order, hostile text harmless; and the verdict."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from stage_command import fails, run
from variants_on_disk import MODEL, VARIANTS, content, run_stage, write_results, write_variant

from earshot import plot_style, report, report_html, report_plots
from earshot.files import read_json, write_json
from earshot.naming import variant_names
from earshot.search import result
from earshot.search.proposals import Proposal
from earshot.search.trials import Trial
from earshot.stages import report as report_stage

HOSTILE = '<script>alert("x")</script> & | `$\\alpha$`\nsecond line'


class Page(html.parser.HTMLParser):
    """Counts tags and gathers text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def stage_run(tmp_path_factory):
    """The report of six variants and a failed one, made by the stage from a list in a file."""
    results = tmp_path_factory.mktemp("results")
    paths = [*write_results(results), write_variant(results, "int8_pc-hist64-5s+calib.n=8", "u55_128", 0.3, reason=HOSTILE)]
    (results / "files.txt").write_text("".join(f"{path}\n" for path in paths))
    done = run_stage("report", f"variants=[{results}/files.txt]", f"out={results}/report", "title=demo")
    assert done.returncode == 0, done.stderr
    return results / "report", done.stdout


def test_table_is_sorted_and_complete(stage_run):
    folder, printed = stage_run
    table = report.read_csv(folder / "variants.csv")
    rates = [float(row["wer"]) for row in table[:-1]]
    assert rates == sorted(wer for *_, wer in VARIANTS)
    assert table[-1]["status"] == "failed" and table[-1]["wer"] == "" and table[-1]["reason"] == "lowering: " + HOSTILE
    assert table[-1]["wer_quantized"] == "0.299", "what is known of a failed variant is kept"
    assert all(f"{MODEL}/{scheme}/{target}" in printed for scheme, target, _ in VARIANTS) and "u55_128 (failed)" in printed
    assert (folder / "variants.md").read_text() == printed


def test_page_holds_all_variants_and_runs_nothing(stage_run):
    folder, _ = stage_run
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and page.tags.count("svg") == 3
    assert all(row["variant"] in page.text for row in report.read_csv(folder / "variants.csv"))
    assert "</script> & | `$\\alpha$`" in page.text, "the reason reads as it was written"
    assert "http" not in text.replace("http://www.w3.org/", ""), "nothing is fetched from elsewhere"
    assert len(text) < 1_500_000


def test_the_interactive_page_has_every_variant_and_fetches_nothing(stage_run):
    text = (stage_run[0] / "pareto.html").read_text().replace("\\u002f", "/")
    assert all(f"{scheme}/{target}" in text for scheme, target, _ in VARIANTS) and "u55_128" not in text.partition("Plotly.newPlot")[2]
    assert "<script src" not in text and all(
        label in text for label in ("SRAM, KiB", "flash, KiB", "program file, KiB", "latency of a window")
    )


def test_the_page_tells_what_is_confused_and_which_operators_run_where(tmp_path):
    path = write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.1)
    content = json.loads(path.read_text())
    content["accuracy"]["integer_graph"]["confused"] = [["FOUR", "FOR", 7], ["", "THE", 2]]
    content["npu"]["operators_cpu"] = {"quantize_per_tensor": 1}
    path.write_text(json.dumps(content))
    path.with_name("cycles_by_operator.csv").write_text("operator,layers,cycles\nConv2D,57,900\nLUT,3,100\n")
    run("report", f"variants=[{path}]", f"out={tmp_path}/report", "title=demo")
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert "FOUR → FOR (7), – → THE (2)" in page.text
    with (tmp_path / "report" / "operators.csv").open(newline="") as stream:
        rows = [(row["operator"], row["where"], row["count"], row["cycles"], row["share"]) for row in csv.DictReader(stream)]
    assert rows == [("Conv2D", "NPU", "57", "900", "0.9"), ("LUT", "NPU", "3", "100", "0.1"), ("quantize_per_tensor", "CPU", "1", "", "")]
    path.with_name("cycles_by_operator.csv").write_text("operator,layers\nConv2D,57\n")
    assert "cycles_by_operator.csv" in fails("report", f"variants=[{path}]", f"out={tmp_path}/report", "title=demo")


def test_the_page_shows_a_search_with_its_winner_and_the_heat_map_of_its_table(tmp_path):
    path = write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.1)
    figures = {"wer": 0.1077, "max_wer_increase": 0.0083, "cycles": 1_425_000, "flash_kib": 695.0, "pte_bytes": 744 * 1024}
    mixed = Trial("m/search_1-hist64-5s/u85_256", "search_1-hist64", "ok", "", figures, 0.0, True)
    wide = Trial("m/int8_pc-hist64-5s/u85_256", "int8_pc-hist64", "over_budget", "flash <is> 1271 KiB", {"flash_kib": 1271.0}, 0.24, True)
    rounds = [[Proposal("int8_pc", "hist64", "int8_pc")], [Proposal("int8_pc", "hist64", "search_1")]]
    found = result.result("m/greedy/u85_256", [wide, mixed], rounds, "flash_kib", {"flash_kib": 1024, "sram_kib": None}, 14)
    write_json(tmp_path / "result.json", found)
    (tmp_path / "sensitivity" / "m" / "standard" / "u85").mkdir(parents=True)
    drawing = tmp_path / "sensitivity" / "m" / "standard" / "u85" / "sensitivity.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    words = [f"variants=[{path}]", f"out={tmp_path}/report", "title=demo"]
    run("report", *words)
    without = Page((tmp_path / "report" / "report.html").read_text())
    assert "Searches" not in without.text and "img" not in without.tags
    run("report", *words, f"searches=[{tmp_path}/result.json]", f"tables=[{drawing},{tmp_path}/none/sensitivity.svg]")
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert "least flash_kib within the budget: m/search_1-hist64-5s/u85_256 695" in page.text and "Budget: flash_kib 1024." in page.text
    (won,) = re.findall('<tr class="winner">(.*?)</tr>', text)
    cells = re.sub("<wbr>", "", won).replace("</td>", "|")
    assert re.sub("<.*?>", "", cells) == "m/search_1-hist64-5s/u85_256|1|10.77|0.83|1.43|695|744|winner|"
    assert "over budget: flash <is> 1271 KiB" in page.text and "latency" not in re.findall("<th>trial.*?</tr>", text)[0]
    assert page.tags.count("img") == 1 and "What quantizing a part costs" in page.text and "m/standard/u85" in page.text


def test_the_page_names_the_modules_that_a_scheme_leaves_in_floats(tmp_path):
    def written(scheme: str, target: str, **weights: str) -> Path:
        path = write_variant(tmp_path, scheme, target, 0.1)
        stored = {name: {"weight": weight, "activation": "int8 per tensor [-128, 127]"} for name, weight in weights.items()}
        write_json(path.with_name("quantize.json"), {"modules": stored})
        write_json(path.with_name("lower.json"), {"operators": {"delegated": {"linear": 2}}})
        return path

    int8 = "int8 per channel [-127, 127]"
    paths = [
        written("int8_float_out-hist64-5s", "u85_256", project=int8, output="float32"),
        written("mixed_host-hist64-5s", "host", project="bfloat16", attention=int8, output="float32"),
        written("int8_pc-hist64-5s", "u85_256", project=int8, output=int8),
        written("fp16-5s", "host", project="float16", output="float16"),
    ]
    run("report", f"variants=[{','.join(map(str, paths))}]", f"out={tmp_path}/report", "title=demo")
    text = Page((tmp_path / "report" / "report.html").read_text()).text
    assert text.count("in floats, on the CPU") == 2
    assert f"{MODEL}/int8_float_out-hist64-5s/u85_256 – in floats, on the CPU: output" in text
    assert f"{MODEL}/mixed_host-hist64-5s/host – in floats, on the CPU: project, output" in text


def test_what_lowering_costs_is_shown_and_named_where_it_is_more_than_chance(tmp_path):
    paths = [write_variant(tmp_path, scheme, "u85_256", 0.1) for scheme in ("int8_pc-hist64-5s", "int8_pt-hist64-5s")]
    content = json.loads(paths[0].read_text())
    content["accuracy"]["integer_graph"] |= {"wer_difference_to_quantized": 0.012, "wer_difference_ci95_to_quantized": [0.003, 0.02]}
    by_chance = [report.row(read_json(path)) for path in paths]
    departed = [report.row(content), by_chance[1]]
    remark = "Zero is outside the 95% interval of the difference"
    page = Page(report_html.page("demo", by_chance, {})).text
    assert "to quantized" in page and page.count("+0.10 (-0.20 … +0.40)") == 2 and remark not in page
    page = Page(report_html.page("demo", departed, {})).text
    assert remark in page and f"tells): {MODEL}/int8_pc-hist64-5s/u85_256: +1.20 (+0.30 … +2.00)." in page
    report.write_csv(tmp_path / "variants.csv", departed)
    ends = [float(report.read_csv(tmp_path / "variants.csv")[0][f"wer_difference_ci95_to_quantized_{end}"]) for end in ("low", "high")]
    assert ends == [0.003, 0.02]


def test_cycle_reports_are_images_on_the_page_as_far_as_there_is_room(tmp_path):
    paths, drawing = write_results(tmp_path), '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>' + " " * 200_000
    for path in paths[:3]:
        path.with_name("cycles.svg").write_text(drawing)
    run("report", f"variants=[{','.join(map(str, paths))}]", f"out={tmp_path}/report", "title=demo")
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("img") == 2 and "script" not in page.tags and len(text) < 1_500_000
    assert "1 more lie beside their variants" in page.text
    copies = sorted(path.relative_to(tmp_path / "report" / "cycles") for path in (tmp_path / "report" / "cycles").rglob("*.svg"))
    assert [str(path) for path in copies] == sorted(f"{MODEL}/{scheme}/{target}.svg" for scheme, target, _ in VARIANTS[:3])


def test_a_parity_ladder_is_shown_once_for_all_targets_of_its_program(tmp_path):
    paths = [write_variant(tmp_path, "int8_pc-hist64-5s", target, 0.1) for target in ("u85_128", "u85_256")]
    picture = tmp_path / "programs" / MODEL / "int8_pc-hist64-5s" / "u85" / "parity.svg"
    picture.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    found = report_stage.find_pictures([read_json(path) for path in paths], {read_json(path)["variant"]: path.parent for path in paths})
    assert found["parity"] == {f"{MODEL}/int8_pc-hist64-5s/u85_128": picture} and not found["cycles"]
    (row, _) = report.rows([read_json(path) for path in paths])
    assert (row["sqnr_db"], row["sqnr_db_quantized"], row["departs_at"]) == (27.9, 28.4, "neg in blocks.1.self_attention")
    text = Page(report_html.page("demo", [row], {}, {"parity": {row["variant"]: picture.read_text()}}))
    assert text.tags.count("img") == 1 and "neg in blocks.1.self_attention" in text.text and "Where precision is lost" in text.text


def test_plots_are_svg_and_the_same_again(stage_run):
    folder, _ = stage_run
    for name in report_html.CAPTIONS:
        root = ElementTree.fromstring((folder / f"{name}.svg").read_text())
        assert root.tag.endswith("svg")
    done = report.rows([content(*variant) for variant in VARIANTS])
    texts = ["".join(ElementTree.fromstring(plot_style.svg(report_plots.wer_by_form(done), "x")).itertext()) for _ in range(2)]
    names = variant_names(one["variant"] for one in done).values()
    assert texts[0] == texts[1] and all(name in texts[0] for name in names)


def test_only_failures_and_hostile_names(tmp_path):
    bad = content("int8_pc", "u85_256", 0.1, reason=HOSTILE, model="<b>$x$&")
    for key in ("accuracy", "window_s"):
        bad.pop(key)
    table = report.rows([bad])
    plots = {name: plot_style.svg(figure, name) for name, figure in report_plots.all_plots(table).items()}
    assert all("no variant has these figures" in text for text in plots.values())
    page = Page(report_html.page("<i>title</i>", table, plots))
    assert not {"script", "b", "i"} & set(page.tags) and "<b>$x$&" in page.text
    hostile = report.rows([content("int8_pc", target, 0.1, model="<b>$x$&") for target in ("host", "u85_256")])
    assert all(ElementTree.fromstring(plot_style.svg(figure, name)) for name, figure in report_plots.all_plots(hostile).items())
    assert report.markdown(table).count("\n") == 4, "a reason of two lines stays in one"


def test_many_variants_stay_a_small_page():
    table = report.rows([content(f"int8_pc-n{i}", ("host", "u85_256")[i % 2], 0.1 + i / 2000) for i in range(600)])
    plots = {name: plot_style.svg(figure, name) for name, figure in report_plots.all_plots(table).items()}
    assert len(report_html.page("many", table, plots).encode()) < 1_500_000


def test_verdict_names_failures(stage_run, tmp_path, capsys):
    folder, _ = stage_run
    failed = run_stage("verdict", f"table={folder}/variants.csv", f"out={tmp_path}/verdict.json")
    assert failed.returncode == 1 and not (tmp_path / "verdict.json").exists()
    assert "1 of 7 variants" in failed.stderr and "int8_pc-hist64-5s+calib.n=8/u55_128 (failed): lowering: <script>" in failed.stderr
    with (folder / "variants.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["status"] == "ok"]
    report.write_csv(tmp_path / "good.csv", rows)
    run("verdict", f"table={tmp_path}/good.csv", f"out={tmp_path}/verdict.json")
    assert (tmp_path / "verdict.json").exists() and "all 6 variants" in capsys.readouterr().out
