# What quantization-aware training resumes from lies in state/, which is no declared output; nor is qat.csv, its curves.
rule quantize:
    input:
        weights="results/train/{model}/model.safetensors",
        train=of_variant("results/corpus/{corpus}/train.cuts.jsonl.gz"),
        program=published_program,
    output:
        program="results/programs/{model}/{scheme}/{family}/quantized.pt2",
        report="results/programs/{model}/{scheme}/{family}/quantize.json",
        front_end="results/programs/{model}/{scheme}/{family}/front_end.json",
        pieces="results/programs/{model}/{scheme}/{family}/tokenizer.pieces",
    log:
        "results/logs/quantize/{model}/{scheme}/{family}.log",
    benchmark:
        "results/benchmarks/quantize/{model}/{scheme}/{family}.tsv"
    conda:
        "../../envs/python.yaml"
    threads: cores_of("quantize")
    resources:
        **needs("quantize"),
    params:
        arguments=arguments("quant", "calib", "window", "form"),
        settings=settings("quant", "calib", "window", "form"),
        source=SOURCES["quantize"],
        model_dir=subpath(input.weights, parent=True),
        corpus_dir=subpath(input.train, parent=True),
        out=subpath(output.program, parent=True),
    shell:
        "python -m earshot.stages.quantize {params.arguments} family={wildcards.family} model_dir={params.model_dir:q}"
        " corpus_dir={params.corpus_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
