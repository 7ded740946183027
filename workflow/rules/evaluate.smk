rule evaluate_float:
    input:
        subject="results/train/{model}/model.safetensors",
        test=of_variant("results/corpus/{corpus}/test.cuts.jsonl.gz"),
        decoding=decoding_files(),
    output:
        report="results/train/{model}/evaluation{decoding}/{window}.json",
    log:
        "results/logs/evaluate_float/{model}/{window}{decoding}.log",
    benchmark:
        "results/benchmarks/evaluate_float/{model}/{window}{decoding}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: cores_of("evaluate_float")
    resources:
        **needs("evaluate_float"),
    params:
        arguments=arguments("decode", "evaluation", "window"),
        settings=settings("decode", "evaluation", "window"),
        decoding=decoding_arguments,
        source=SOURCES["evaluate"],
        subject=subpath(input.subject, parent=True),
        corpus_dir=subpath(input.test, parent=True),
    shell:
        "python -m earshot.stages.evaluate kind=float {params.arguments} {params.decoding} subject={params.subject:q}"
        " corpus_dir={params.corpus_dir:q} out={output.report:q} 2>&1 | tee {log:q}"


rule evaluate_program:
    input:
        subject="results/programs/{model}/{scheme}/{family}/quantized.pt2",
        graph=integer_graph,
        test=of_variant("results/corpus/{corpus}/test.cuts.jsonl.gz"),
        decoding=decoding_files(),
    output:
        report="results/programs/{model}/{scheme}/{family}/evaluation{decoding}.json",
    log:
        "results/logs/evaluate_program/{model}/{scheme}/{family}{decoding}.log",
    benchmark:
        "results/benchmarks/evaluate_program/{model}/{scheme}/{family}{decoding}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: cores_of("evaluate_program")
    resources:
        **needs("evaluate_program"),
    params:
        arguments=arguments("decode", "evaluation", "window"),
        settings=settings("decode", "evaluation"),
        decoding=decoding_arguments,
        source=SOURCES["evaluate"],
        subject=subpath(input.subject, parent=True),
        corpus_dir=subpath(input.test, parent=True),
    shell:
        "python -m earshot.stages.evaluate kind=program {params.arguments} {params.decoding} subject={params.subject:q}"
        " corpus_dir={params.corpus_dir:q} out={output.report:q} 2>&1 | tee {log:q}"


# On the host: accuracy, speed and memory of the .pte itself.
rule evaluate_variant:
    input:
        subject="results/variants/{model}/{scheme}/{target}/lower.json",
        test=of_variant("results/corpus/{corpus}/test.cuts.jsonl.gz"),
        decoding=decoding_files(),
    output:
        report="results/variants/{model}/{scheme}/{target}/evaluation{decoding}.json",
    log:
        "results/logs/evaluate_variant/{model}/{scheme}/{target}{decoding}.log",
    benchmark:
        "results/benchmarks/evaluate_variant/{model}/{scheme}/{target}{decoding}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: all_cores(otherwise=1)  # it is timed: no other job may run beside it
    resources:
        **needs("evaluate_variant"),
    params:
        arguments=arguments("decode", "evaluation", "window"),
        settings=settings("decode", "evaluation"),
        decoding=decoding_arguments,
        source=SOURCES["evaluate"],
        subject=subpath(input.subject, parent=True),
        corpus_dir=subpath(input.test, parent=True),
    shell:
        "python -m earshot.stages.evaluate kind=variant {params.arguments} {params.decoding} subject={params.subject:q}"
        " corpus_dir={params.corpus_dir:q} out={output.report:q} 2>&1 | tee {log:q}"


localrules:
    metrics,


rule metrics:
    input:
        lower="results/variants/{model}/{scheme}/{target}/lower.json",
        float=of_variant("results/train/{model}/evaluation{decoding}/{window}.json"),
        program=program_evaluation,
        variant=host_evaluation,
        parity=parity_ladder,
    output:
        metrics=report(
            "results/variants/{model}/{scheme}/{target}/metrics{decoding}.json",
            category="Variants",
            labels={"model": "{model}", "scheme": "{scheme}", "target": "{target}{decoding}"},
        ),
        environment="results/variants/{model}/{scheme}/{target}/environment{decoding}.json",
    log:
        "results/logs/metrics/{model}/{scheme}/{target}{decoding}.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("metrics"),
    params:
        variant=lambda wildcards: owner(wildcards).id,
        source=SOURCES["metrics"],
        corpus=corpus_name,
        choices=choices,
        config=resolved,
    shell:
        "python -m earshot.stages.metrics variant={params.variant:q} corpus_id={params.corpus:q}"
        " choices={params.choices:q} config={params.config:q} lower_json={input.lower:q} float_json={input.float:q}"
        " program_json={input.program:q} variant_json={input.variant:q} parity_json={input.parity:q} out={output.metrics:q} 2>&1 | tee {log:q}"
