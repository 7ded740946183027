"""`python -m earshot.stages.report variants=[...] out=results/report`: tables, plots and a page of the variants side by side."""

from __future__ import annotations

from pathlib import Path

from earshot import report, report_html, report_plots, variant_metrics
from earshot.config import ReportStage
from earshot.errors import ConfigError
from earshot.files import atomic
from earshot.stages import stage


@stage("report")
def main(cfg: ReportStage) -> None:
    paths = variant_metrics.expand(cfg.variants)
    if not paths:
        raise ConfigError("variants: the list is empty; name the metrics.json files of the variants, variants=[FILE,FILE]")
    table, out = report.rows(variant_metrics.read(path) for path in paths), Path(cfg.out)
    figures = report_plots.all_plots(table)
    texts = {f"{name}.svg": report_plots.svg(figure, name) for name, figure in figures.items()}
    inline = {name: report_plots.svg(figure, name, background="none") for name, figure in figures.items()}
    texts |= {"variants.md": report.markdown(table), "report.html": report_html.page(cfg.title, table, inline)}
    report.write_csv(out / "variants.csv", table)
    for name, text in texts.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text)
    print(texts["variants.md"], end="")


if __name__ == "__main__":
    main()
