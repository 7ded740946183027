# A search is built in rounds: each `propose` says what is to be built next, and what it names are ordinary variants, made by the rules of all others.


localrules:
    propose,
    search_result,


rule sensitivity:
    input:
        weights="results/train/{model}/model.safetensors",
        train=of_searched("results/corpus/{corpus}/train.cuts.jsonl.gz"),
        dev=of_searched("results/corpus/{corpus}/dev.cuts.jsonl.gz"),
        decoding=decoding_files(searched),
    output:
        table="results/sensitivity/{model}/{sensitivity}/{family}/sensitivity.json",
        csv=report("results/sensitivity/{model}/{sensitivity}/{family}/sensitivity.csv", category="Sensitivity"),
        picture=report(
            "results/sensitivity/{model}/{sensitivity}/{family}/sensitivity.svg",
            category="Sensitivity",
            caption="../report/sensitivity.rst",
        ),
    log:
        "results/logs/sensitivity/{model}/{sensitivity}/{family}.log",
    benchmark:
        "results/benchmarks/sensitivity/{model}/{sensitivity}/{family}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("sensitivity"),
    params:
        arguments=search_arguments("sensitivity", "calib", "window", "form", "decode"),
        settings=search_settings("sensitivity", "calib", "window", "form", "decode"),
        schemes=table_schemes,
        decoding=decoding_arguments,
        source=SOURCES["sensitivity"],
        model_dir=subpath(input.weights, parent=True),
        corpus_dir=subpath(input.train, parent=True),
        out=subpath(output.table, parent=True),
    shell:
        "python -m earshot.stages.sensitivity {params.arguments} {params.decoding} schemes={params.schemes:q} family={wildcards.family}"
        " model_dir={params.model_dir:q} corpus_dir={params.corpus_dir:q} out={params.out:q} 2>&1 | tee {log:q}"


rule search:
    input:
        weights="results/train/{model}/model.safetensors",
        train=of_searched("results/corpus/{corpus}/train.cuts.jsonl.gz"),
        dev=of_searched("results/corpus/{corpus}/dev.cuts.jsonl.gz"),
        decoding=decoding_files(searched),
        table=of_searched("results/sensitivity/{model}/{sensitivity}/{family}/sensitivity.json"),
        uniform=lambda wildcards: trial_files(searched(wildcards), rounds=1),
    output:
        "results/search/{model}/{search}/{target}/candidates.json",
    log:
        "results/logs/search/{model}/{search}/{target}.log",
    benchmark:
        "results/benchmarks/search/{model}/{search}/{target}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("search"),
    params:
        arguments=search_arguments("search", "budget", "sensitivity", "calib", "window", "form", "decode"),
        settings=search_settings("search", "budget", "sensitivity", "calib", "window", "form", "decode"),
        schemes=search_schemes,
        calibrations=search_calibrations,
        decoding=decoding_arguments,
        source=SOURCES["search"],
        uniform=listed("uniform"),
        family=lambda wildcards: searched(wildcards).family,
        model_dir=subpath(input.weights, parent=True),
        corpus_dir=subpath(input.train, parent=True),
    shell:
        "python -m earshot.stages.search {params.arguments} {params.decoding} schemes={params.schemes:q} calibrations={params.calibrations:q}"
        " family={params.family} table={input.table:q} uniform={params.uniform:q} model_dir={params.model_dir:q}"
        " corpus_dir={params.corpus_dir:q} out={output:q} 2>&1 | tee {log:q}"


checkpoint propose:
    input:
        candidates=search_candidates,
        measured=lambda wildcards: trial_files(searched(wildcards), rounds=int(wildcards.round)),
    output:
        "results/search/{model}/{search}/{target}/round_{round}.json",
    log:
        "results/logs/propose/{model}/{search}/{target}/{round}.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("propose"),
    params:
        arguments=search_arguments("search", "budget"),
        settings=search_settings("search", "budget"),
        source=SOURCES["propose"],
        measured=listed("measured"),
        calibration=lambda wildcards: searched(wildcards).choices["calib"],
    shell:
        "python -m earshot.stages.propose {params.arguments} round={wildcards.round} calibration={params.calibration:q}"
        " candidates={input.candidates:q} measured={params.measured:q} out={output:q} 2>&1 | tee {log:q}"


rule search_result:
    input:
        candidates="results/search/{model}/{search}/{target}/candidates.json",
        rounds=round_files,
        measured=lambda wildcards: trial_files(searched(wildcards)),
    output:
        result="results/search/{model}/{search}/{target}/result.json",
        table=report("results/search/{model}/{search}/{target}/trials.csv", category="Search", caption="../report/search.rst"),
    log:
        "results/logs/search_result/{model}/{search}/{target}.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("search_result"),
    params:
        arguments=search_arguments("search", "budget"),
        settings=search_settings("search", "budget"),
        source=SOURCES["search_result"],
        rounds=listed("rounds"),
        measured=listed("measured"),
        out=subpath(output.result, parent=True),
    shell:
        "python -m earshot.stages.search_result {params.arguments} id={wildcards.model:q}/{wildcards.search:q}/{wildcards.target:q}"
        " candidates={input.candidates:q} rounds={params.rounds:q} measured={params.measured:q} out={params.out:q} 2>&1 | tee {log:q}"
