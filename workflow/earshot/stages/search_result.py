"""`python -m earshot.stages.search_result`: the best trial of a search within the budget; where there is none, the closest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from earshot.config import SearchResultStage
from earshot.files import read_json, write_json
from earshot.search import proposals, result, trials
from earshot.stages import stage


@stage("search_result")
def main(cfg: SearchResultStage) -> None:
    built, rounds = trials.read_all(cfg.measured), [proposals.read(path) for path in cfg.rounds]
    compared = read_json(cfg.candidates)
    found = result.result(cfg.id, built, rounds, cfg.search.objective, dataclasses.asdict(cfg.budget), compared["compared"])
    out = Path(cfg.out)
    result.write_table(out / "trials.csv", found)
    (out / "winner.yaml").unlink(missing_ok=True)
    if found["winner"]:
        won = next(one for proposed in rounds for one in proposed if one.id == found["winner"]["scheme"])
        result.write_scheme(out / "winner.yaml", won)
    write_json(out / "result.json", {**found, **({"candidates": compared["reason"]} if "reason" in compared else {})})
    print(result.sentence(found))


if __name__ == "__main__":
    main()
