localrules:
    variants_list,
    report,
    track,
    verdict,


# The metrics.json files, a path a line: a sweep may hold more of them than a command line takes.
rule variants_list:
    input:
        of_all_variants("results/variants/{model}/{scheme}/{target}/metrics{decoding}.json"),
    output:
        "results/report/variants.txt",
    log:
        "results/logs/variants_list.log",
    conda:
        "../../envs/python.yaml"
    shell:
        "printf '%s\\n' {input:q} > {output:q}"


rule report:
    input:
        variants="results/report/variants.txt",
        metrics=of_all_variants("results/variants/{model}/{scheme}/{target}/metrics{decoding}.json"),
        tables=tables(),
        searches=search_results(),
    output:
        table=report("results/report/variants.csv", category="Summary", caption="../report/variants.rst"),
        html=report("results/report/report.html", category="Summary", caption="../report/report.rst"),
        wer_by_form=report("results/report/wer_by_form.svg", category="Plots", caption="../report/wer_by_form.rst"),
        wer_latency=report("results/report/wer_latency.svg", category="Plots", caption="../report/wer_latency.rst"),
        wer_memory=report("results/report/wer_memory.svg", category="Plots", caption="../report/wer_memory.rst"),
        cycles=report(
            directory("results/report/cycles"),
            patterns=["{model}/{scheme}/{target}.svg"],
            category="Cycles",
            caption="../report/cycles.rst",
        ),
        sram=report(
            directory("results/report/sram"),
            patterns=["{model}/{scheme}/{target}.svg"],
            category="SRAM",
            caption="../report/sram.rst",
        ),
        parity=report(
            directory("results/report/parity"),
            patterns=["{model}/{scheme}/{target}.svg"],
            category="Parity",
            caption="../report/parity.rst",
        ),
        operators=report("results/report/operators.csv", category="Summary", caption="../report/operators.rst"),
        pareto="results/report/pareto.html",  # interactive, too large for Snakemake's report: MLflow shows it
    log:
        "results/logs/report.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("report"),
    params:
        source=SOURCES["report"],
        tables=listed("tables"),
        searches=listed("searches"),
        title=lambda wildcards: hydra_value(VARIANTS[0].config["experiment_name"]),  # a text with braces would be a pattern
        out=subpath(output.html, parent=True),
    shell:
        "python -m earshot.stages.report title={params.title:q} 'variants=[{input.variants}]' tables={params.tables:q} searches={params.searches:q} out={params.out:q} 2>&1 | tee {log:q}"


rule track:
    input:
        variants="results/report/variants.txt",
        metrics=of_all_variants("results/variants/{model}/{scheme}/{target}/metrics{decoding}.json"),
        searches=search_results(),
        tables=tables(),
        models=of_all_variants("results/train/{model}/metrics.json"),
        report=rules.report.output.pareto,
    output:
        "results/report/tracked.json",
    log:
        "results/logs/track.log",
    retries: 2  # a server that starts anew is there again soon
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("track"),
    params:
        arguments=arguments("tracking"),
        settings=settings("tracking"),
        source=SOURCES["track"],
        searches=listed("searches"),
        tables=listed("tables"),
        experiment=lambda wildcards: experiment_name,
    shell:
        "python -m earshot.stages.track {params.arguments} {params.experiment:q} results=results 'variants=[{input.variants}]' searches={params.searches:q} tables={params.tables:q} out={output:q} 2>&1 | tee {log:q}"


# Last, and after everything else was written: the exit status says whether a variant failed.
rule verdict:
    input:
        table="results/report/variants.csv",
        tracked="results/report/tracked.json",
        searches=search_results(),
    output:
        "results/report/verdict.json",
    log:
        "results/logs/verdict.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("verdict"),
    params:
        source=SOURCES["verdict"],
        searches=listed("searches"),
    shell:
        "python -m earshot.stages.verdict table={input.table:q} searches={params.searches:q} out={output:q} 2>&1 | tee {log:q}"
