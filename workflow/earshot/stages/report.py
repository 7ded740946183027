"""`python -m earshot.stages.report variants=[...] out=results/report`: tables, plots and a page of the variants side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

from earshot import plot_style, report, report_html, report_plots, variant_metrics
from earshot.config import ReportStage
from earshot.errors import ConfigError
from earshot.files import atomic, atomic_dir
from earshot.stages import stage

PICTURE = "cycles.svg"  # of the lower step, beside metrics.json


@stage("report")
def main(cfg: ReportStage) -> None:
    paths = variant_metrics.expand(cfg.variants)
    if not paths:
        raise ConfigError("variants: the list is empty; name the metrics.json files of the variants, variants=[FILE,FILE]")
    metrics, out = [variant_metrics.read(path) for path in paths], Path(cfg.out)
    table = report.rows(metrics)
    drawn = [(one["variant"], path.with_name(PICTURE)) for one, path in zip(metrics, paths, strict=True)]
    cycles = {variant: path for variant, path in drawn if path.is_file()}
    figures = report_plots.all_plots(table)
    texts = {f"{name}.svg": plot_style.svg(figure, name) for name, figure in figures.items()}
    inline = {name: plot_style.svg(figure, name, background="none") for name, figure in figures.items()}
    page = report_html.page(cfg.title, table, inline, {variant: path.read_text() for variant, path in cycles.items()})
    texts |= {"variants.md": report.markdown(table), "report.html": page}
    report.write_csv(out / "variants.csv", table)
    for name, text in texts.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text)
    with atomic_dir(out / "cycles") as folder:
        for path in cycles.values():
            model, scheme, target = path.absolute().parts[-4:-1]
            copied = folder / model / scheme / f"{target}.svg"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    print(texts["variants.md"], end="")


if __name__ == "__main__":
    main()
