# A variant that the compiler refuses is a row of the report, not the end of the workflow: lower.json says so, and model.pte, graph.tosa and the
# tables lie beside it where the lowering succeeded. Hence only lower.json is declared.
rule lower:
    input:
        program=of_variant("results/programs/{model}/{scheme}/{family}/quantized.pt2"),
    output:
        report="results/variants/{model}/{scheme}/{target}/lower.json",
    log:
        "results/logs/lower/{model}/{scheme}/{target}.log",
    benchmark:
        "results/benchmarks/lower/{model}/{scheme}/{target}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        mem_mb=4000,
    params:
        arguments=arguments("target"),
        settings=settings("target"),
        source=source_digest("lower"),
        program_dir=subpath(input.program, parent=True),
        out=subpath(output.report, parent=True),
    shell:
        "python -m earshot.stages.lower {params.arguments} program_dir={params.program_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
