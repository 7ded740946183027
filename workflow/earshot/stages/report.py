"""`python -m earshot.stages.report variants=[...] out=results/report`: tables, plots and a page of the variants side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

from earshot import plot_style, report, report_details, report_html, report_interactive, report_plots, variant_metrics
from earshot.config import ReportStage
from earshot.errors import ConfigError
from earshot.files import atomic, atomic_dir, read_json
from earshot.stages import stage


def copy_pictures(pictures: dict[str, Path], out: Path) -> None:
    """Copy a picture of each variant to a folder of its own, for Snakemake's report."""
    with atomic_dir(out) as folder:
        for variant, path in pictures.items():
            copied = folder / f"{variant}.svg"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)


def find_pictures(metrics: list[dict], folders: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The pictures that there are, by name and variant; of variants that share their program's, one has it."""
    found: dict[str, dict[str, Path]] = {name: {} for name in report_html.PICTURES}
    for one in metrics:
        variant = one["variant"]
        of_program = variant_metrics.program_dir(one, folders[variant])
        for name, of_name in found.items():
            path = next((path for folder in (folders[variant], of_program) if (path := folder / f"{name}.svg").is_file()), None)
            if path and path not in of_name.values():
                of_name[variant] = path
    return found


@stage("report")
def main(cfg: ReportStage) -> None:
    paths = variant_metrics.expand(cfg.variants)
    if not paths:
        raise ConfigError("variants: the list is empty; name the metrics.json files of the variants, variants=[FILE,FILE]")
    metrics, out = [variant_metrics.read(path) for path in paths], Path(cfg.out)
    table = report.rows(metrics)
    folders = {one["variant"]: path.parent for one, path in zip(metrics, paths, strict=True)}
    details = {one["variant"]: report_details.read(one, folders[one["variant"]]) for one in metrics}
    drawn = find_pictures(metrics, folders)
    figures = report_plots.all_plots(table)
    texts = {f"{name}.svg": plot_style.svg(figure, name) for name, figure in figures.items()}
    inline = {name: plot_style.svg(figure, name, background="none") for name, figure in figures.items()}
    pictures = {name: {variant: path.read_text() for variant, path in of.items()} for name, of in drawn.items()}
    heat_maps = {"/".join(path.parts[-4:-1]): path.read_text() for path in map(Path, cfg.tables) if path.is_file()}
    searches = [read_json(path) for path in cfg.searches]
    texts |= {
        "variants.md": report.markdown(table),
        "report.html": report_html.page(cfg.title, table, inline, pictures, details, heat_maps, searches),
        "pareto.html": report_interactive.page(cfg.title, table),
    }
    report.write_csv(out / "variants.csv", table)
    report_details.write_operators(out / "operators.csv", [(one["variant"], details[one["variant"]]) for one in table])
    for name, text in texts.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text)
    for name, of_variants in drawn.items():
        copy_pictures(of_variants, out / name)
    print(texts["variants.md"], end="")


if __name__ == "__main__":
    main()
