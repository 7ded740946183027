"""`python -m earshot.stages.verdict table=results/report/variants.csv`: exit status 1 where a variant failed, and which ones."""

from __future__ import annotations

from earshot import report
from earshot.config import VerdictStage
from earshot.files import read_json, write_json
from earshot.search import result
from earshot.stages import stage


@stage("verdict")
def main(cfg: VerdictStage) -> None:
    table = report.read_csv(cfg.table)
    found = [read_json(path) for path in cfg.searches]
    report.verdict(table, {trial["variant"] for one in found for trial in one["trials"]})
    for one in found:
        print(result.sentence(one))
    result.verdict(found)
    if cfg.out:
        write_json(cfg.out, {"variants": [one["variant"] for one in table], "failed": []})
    over = sum(one["status"] != "ok" for one in table)
    good = len(table) - over
    print(f"{good} variants succeeded, {over} trials of searches did not" if over else f"all {good} variants succeeded")


if __name__ == "__main__":
    main()
