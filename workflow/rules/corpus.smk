rule corpus:
    output:
        train="results/corpus/{corpus}/train.cuts.jsonl.gz",
        dev="results/corpus/{corpus}/dev.cuts.jsonl.gz",
        test="results/corpus/{corpus}/test.cuts.jsonl.gz",
        summary="results/corpus/{corpus}/summary.json",
    log:
        "results/logs/corpus/{corpus}.log",
    benchmark:
        "results/benchmarks/corpus/{corpus}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: cores_of("corpus")
    resources:
        **needs("corpus"),
    params:
        arguments=arguments("corpus"),
        settings=settings("corpus"),
        source=SOURCES["corpus"],
        out=subpath(output.summary, parent=True),
    shell:
        "python -m earshot.stages.corpus {params.arguments} out={params.out:q} 2>&1 | tee {log:q}"
