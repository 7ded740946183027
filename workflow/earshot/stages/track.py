"""`python -m earshot.stages.track results=results`: log all variants to MLflow, or rebuild MLflow from them."""

from __future__ import annotations

from collections import Counter

from earshot import mlflow_pages, model_registry, track, variant_metrics
from earshot.config import TrackStage
from earshot.files import read_json, write_json
from earshot.search import result
from earshot.stages import stage


@stage("track")
def main(cfg: TrackStage) -> None:
    if not cfg.tracking.enabled:
        print("tracking is off; nothing was logged")
        if cfg.out:
            write_json(cfg.out, {"enabled": False, "models": {}, "variants": {}})
        return
    paths, searches, tables = variant_metrics.expand(cfg.variants), cfg.searches, cfg.tables
    if not paths:
        paths = track.find_variants(cfg.results)
        searches, tables = searches or track.find(cfg.results, track.SEARCHES), tables or track.find(cfg.results, track.TABLES)
    marks = result.tags([read_json(path) for path in searches])
    logged = track.log_results(cfg.tracking, cfg.experiment_name, cfg.results, paths, marks, [*tables, *searches])
    registered = model_registry.register(cfg.tracking, cfg.experiment_name, logged, paths, marks) if cfg.tracking.models else {}
    links = mlflow_pages.links(logged, registered)
    if cfg.out:
        write_json(cfg.out, {"enabled": True, **logged, "registered": registered, "links": links})
    actions = Counter(run["action"] for runs in (logged["models"], logged["variants"]) for run in runs.values())
    done = ", ".join(f"{count} {action}" for action, count in sorted(actions.items()))
    print(f"MLflow experiment {cfg.experiment_name!r} at {cfg.tracking.uri}: {done}")
    if registered.get("winner"):
        print("winner:  {uri} is version {version}, {variant}".format_map(registered["winner"]))
    if not cfg.tracking.uri.startswith("http"):
        print(f"look:    mlflow ui --backend-store-uri {cfg.tracking.uri}")
    for name, link in links.items():
        print(f"{name + ':':8} {link}")


if __name__ == "__main__":
    main()
