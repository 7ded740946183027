# What training resumes from lies in state/, which is no declared output: Snakemake deletes the outputs of a job that failed or was killed.
rule train:
    input:
        train=of_variant("results/features/{corpus}/{features}/train.cuts.jsonl.gz"),
        dev=of_variant("results/features/{corpus}/{features}/dev.cuts.jsonl.gz"),
        front_end=of_variant("results/features/{corpus}/{features}/front_end.json"),
        tokenizer=of_variant("results/tokenizer/{tokenizer}/tokenizer.model"),
        pieces=of_variant("results/tokenizer/{tokenizer}/tokenizer.pieces"),
        start=start_weights,
    output:
        weights="results/train/{model}/model.safetensors",
        config="results/train/{model}/config.yaml",
        front_end="results/train/{model}/front_end.json",
        pieces="results/train/{model}/tokenizer.pieces",
        curves="results/train/{model}/curves.csv",
        metrics="results/train/{model}/metrics.json",
    log:
        "results/logs/train/{model}.log",
    benchmark:
        "results/benchmarks/train/{model}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: workflow.cores or 2
    resources:
        mem_mb=6000,
        gpu=gpus,
    params:
        arguments=arguments("model", "train", "tracking"),
        settings=settings("model", "train"),
        source=source_digest("train"),
        experiment=experiment_name,
        features_dir=subpath(input.front_end, parent=True),
        tokenizer_dir=subpath(input.tokenizer, parent=True),
        out=subpath(output.weights, parent=True),
    shell:
        "python -m earshot.stages.train {params.arguments} {params.experiment} features_dir={params.features_dir:q}"
        " tokenizer_dir={params.tokenizer_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
