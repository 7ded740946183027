rule features:
    input:
        train="results/corpus/{corpus}/train.cuts.jsonl.gz",
        dev="results/corpus/{corpus}/dev.cuts.jsonl.gz",
    output:
        train="results/features/{corpus}/{features}/train.cuts.jsonl.gz",
        dev="results/features/{corpus}/{features}/dev.cuts.jsonl.gz",
        stats="results/features/{corpus}/{features}/stats.json",
        front_end="results/features/{corpus}/{features}/front_end.json",
        golden="results/features/{corpus}/{features}/golden.npz",
    log:
        "results/logs/features/{corpus}-{features}.log",
    benchmark:
        "results/benchmarks/features/{corpus}-{features}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: cores_of("features")
    resources:
        **needs("features"),
    params:
        arguments=arguments("features"),
        settings=settings("features"),
        source=SOURCES["features"],
        corpus_dir=subpath(input.train, parent=True),
        out=subpath(output.stats, parent=True),
    shell:
        "python -m earshot.stages.features {params.arguments} corpus_dir={params.corpus_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
