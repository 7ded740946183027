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
    wildcard_constraints:
        model=models(imported=False),
    conda:
        "../../envs/python.yaml"
    threads: cores_of("train")
    resources:
        **needs("train"),
    params:
        arguments=arguments("model", "train"),
        settings=settings("model", "train"),
        source=SOURCES["train"],
        features_dir=subpath(input.front_end, parent=True),
        tokenizer_dir=subpath(input.tokenizer, parent=True),
        out=subpath(output.weights, parent=True),
    shell:
        'python -m earshot.stages.train {params.arguments} "${{TRACKING[@]}}" "$EXPERIMENT_NAME" features_dir={params.features_dir:q}'
        " tokenizer_dir={params.tokenizer_dir:q} out={params.out:q} 2>&1 | tee {log:q}"


# Instead of a training: a checkpoint that others trained, in the same form.
rule import_checkpoint:
    input:
        imported_files,
    output:
        weights="results/train/{model}/model.safetensors",
        config="results/train/{model}/config.yaml",
        front_end="results/train/{model}/front_end.json",
        pieces="results/train/{model}/tokenizer.pieces",
        metrics="results/train/{model}/metrics.json",
    log:
        "results/logs/import_checkpoint/{model}.log",
    benchmark:
        "results/benchmarks/import_checkpoint/{model}.tsv"
    wildcard_constraints:
        model=models(imported=True),
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("import_checkpoint"),
    params:
        arguments=arguments("features"),
        imported=import_arguments,
        settings=settings("features", "imported"),
        source=SOURCES["import_checkpoint"],
        out=subpath(output.weights, parent=True),
    shell:
        "python -m earshot.stages.import_checkpoint {params.arguments} {params.imported} out={params.out:q} 2>&1 | tee {log:q}"
