# What each form of a model loses, from the float model to what the device runs.
rule parity:
    input:
        weights="results/train/{model}/model.safetensors",
        program="results/programs/{model}/{scheme}/{family}/quantized.pt2",
        graph=integer_graph,
        variant=host_variant("lower.json"),
        dev=of_variant("results/corpus/{corpus}/dev.cuts.jsonl.gz"),
        float=of_variant("results/train/{model}/evaluation{decoding}/{window}.json"),
        of_program=program_evaluation,
        of_variant=host_variant("evaluation{decoding}.json"),
    output:
        report="results/programs/{model}/{scheme}/{family}/parity.json",
        table="results/programs/{model}/{scheme}/{family}/parity.csv",
        picture="results/programs/{model}/{scheme}/{family}/parity.svg",
    log:
        "results/logs/parity/{model}/{scheme}/{family}.log",
    benchmark:
        "results/benchmarks/parity/{model}/{scheme}/{family}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("parity"),
    params:
        arguments=arguments("parity", "window"),
        settings=settings("parity", "window"),
        source=SOURCES["parity"],
        model_dir=subpath(input.weights, parent=True),
        program_dir=subpath(input.program, parent=True),
        variant_dir=lambda wildcards, input: Path(input.variant).parent if input.variant else "",
        corpus_dir=subpath(input.dev, parent=True),
    shell:
        "python -m earshot.stages.parity {params.arguments} model_dir={params.model_dir:q} program_dir={params.program_dir:q} variant_dir={params.variant_dir:q}"
        " corpus_dir={params.corpus_dir:q} float_json={input.float:q} program_json={input.of_program:q} variant_json={input.of_variant:q}"
        " out={output.report:q} 2>&1 | tee {log:q}"
