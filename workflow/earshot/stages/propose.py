"""`python -m earshot.stages.propose`: which programs a search builds in a round; the uniform schemes first, then its candidates."""

from __future__ import annotations

from earshot.config import ProposeStage
from earshot.errors import ConfigError
from earshot.files import write_json
from earshot.search import candidates, trials
from earshot.search.proposals import uniform
from earshot.search.select import select
from earshot.stages import stage


@stage("propose")
def main(cfg: ProposeStage) -> None:
    if cfg.round == 0:
        chosen = [uniform(scheme, cfg.calibration) for scheme in cfg.search.schemes]
    elif cfg.candidates is None:
        raise ConfigError(f"round={cfg.round}: later rounds choose from candidates; add candidates=FILE")
    else:
        built = trials.read_all(cfg.measured)
        limits = {name: getattr(cfg.budget, name) for name in cfg.budget.__dataclass_fields__}
        found = select(candidates.read(cfg.candidates), built, limits, cfg.search.objective, cfg.search.batch)
        chosen = [one.proposal for one in found]
    print(f"round {cfg.round}: {', '.join(one.id for one in chosen) or 'nothing left that may be better'}")
    write_json(cfg.out, {"round": cfg.round, "proposals": [one.content() for one in chosen]})


if __name__ == "__main__":
    main()
