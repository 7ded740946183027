localrules:
    export,


# Only when it is asked for: `snakemake --cores all export`.
rule export:
    input:
        of_all_variants("results/export/{model}/{window}/export.json"),


rule export_model:
    input:
        weights="results/train/{model}/model.safetensors",
        golden=golden_features,
        tokenizer=trained_tokenizer,
    output:
        report="results/export/{model}/{window}/export.json",
    log:
        "results/logs/export_model/{model}/{window}.log",
    benchmark:
        "results/benchmarks/export_model/{model}/{window}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("export_model"),
    params:
        arguments=arguments("window"),
        export=export_arguments,
        settings=settings("window", "export"),
        source=SOURCES["export_model"],
        model_dir=subpath(input.weights, parent=True),
        out=subpath(output.report, parent=True),
    shell:
        "python -m earshot.stages.export_model {params.arguments} {params.export} model_dir={params.model_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
