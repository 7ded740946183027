# What a decoding with a language model needs; nothing of it is made for the others.


rule language_model:
    output:
        "results/language_model/{lm}.arpa.gz",
    log:
        "results/logs/language_model/{lm}.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("language_model"),
    params:
        mirror=lambda wildcards: decoded_with(wildcards.lm).config["decode"]["mirror"],
        checksum=lambda wildcards: hydra_value(decoded_with(wildcards.lm).config["decode"]["lm_checksum"]),
    shell:
        "python -m earshot.stages.language_model name={wildcards.lm:q} mirror={params.mirror:q} checksum={params.checksum:q} out={output:q} 2>&1 | tee {log:q}"


rule lexicon:
    input:
        lm=lambda wildcards: language_model(decoded_with(wildcards.lm)),
        tokenizer="results/tokenizer/{tokenizer}/tokenizer.model",
    output:
        "results/lexicon/{tokenizer}/{lm}.txt",
    log:
        "results/logs/lexicon/{tokenizer}/{lm}.log",
    conda:
        "../../envs/python.yaml"
    resources:
        **needs("lexicon"),
    params:
        source=SOURCES["lexicon"],
    shell:
        "python -m earshot.stages.lexicon lm={input.lm:q} tokenizer_model={input.tokenizer:q} out={output:q} 2>&1 | tee {log:q}"
