rule tokenizer:
    input:
        lambda wildcards: [f"results/corpus/{owner(wildcards).corpus}/{split}.cuts.jsonl.gz" for split in ("train", "dev", "test")],
    output:
        model="results/tokenizer/{tokenizer}/tokenizer.model",
        pieces="results/tokenizer/{tokenizer}/tokenizer.pieces",
        coverage="results/tokenizer/{tokenizer}/tokenizer.json",
    log:
        "results/logs/tokenizer/{tokenizer}.log",
    benchmark:
        "results/benchmarks/tokenizer/{tokenizer}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("tokenizer"),
    params:
        arguments=arguments("tokenizer"),
        settings=settings("tokenizer"),
        source=SOURCES["tokenizer"],
        corpus_dir=subpath(input[0], parent=True),
        out=subpath(output.model, parent=True),
    shell:
        "python -m earshot.stages.tokenizer {params.arguments} corpus_dir={params.corpus_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
