# What a compiler refuses is a row of the report, not the end of the workflow: graph.json or lower.json says so, and what else the step makes lies
# beside it where it succeeded. Hence only graph.json and lower.json are declared.


# The slow part of lowering for an NPU, done once for all targets of a family.
rule tosa:
    input:
        program="results/programs/{model}/{scheme}/{family}/quantized.pt2",
    output:
        report="results/programs/{model}/{scheme}/{family}/graph.json",
    log:
        "results/logs/tosa/{model}/{scheme}/{family}.log",
    benchmark:
        "results/benchmarks/tosa/{model}/{scheme}/{family}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("tosa"),
    params:
        source=SOURCES["tosa"],
        program_dir=subpath(input.program, parent=True),
    shell:
        "python -m earshot.stages.tosa program_dir={params.program_dir:q} 2>&1 | tee {log:q}"


rule lower:
    input:
        program=lowered_from,
    output:
        report="results/variants/{model}/{scheme}/{target}/lower.json",
    log:
        "results/logs/lower/{model}/{scheme}/{target}.log",
    benchmark:
        "results/benchmarks/lower/{model}/{scheme}/{target}.tsv"
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("lower"),
    params:
        arguments=arguments("target"),
        settings=settings("target"),
        source=SOURCES["lower"],
        program_dir=subpath(input.program, parent=True),
        out=subpath(output.report, parent=True),
    shell:
        "python -m earshot.stages.lower {params.arguments} program_dir={params.program_dir:q} out={params.out:q} 2>&1 | tee {log:q}"
