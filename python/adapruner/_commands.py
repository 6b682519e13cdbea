"""A function for every command of adapruner; made from its command line.

Written by `ADAPRUNER_BLESS=1 cargo test -p adapruner --bin adapruner python`, checked by the same test.
"""

from __future__ import annotations

from typing import Any, Sequence

from ._program import Progress, Value, run_command

__all__ = [
    "inspect",
    "evaluate",
    "generate",
    "latency",
    "compare_models",
    "sample",
    "stats",
    "prune",
    "search",
    "compare",
    "correlate",
    "trials",
    "report",
    "run",
    "apply",
    "recover",
    "merge",
    "export",
    "doctor",
]


def inspect(
    model: Value,
    *,
    config: Value | bool | None = None,
    digest: bool = False,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Show what a model is made of; weights are not read.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        digest: Also compute the digest of the content (reads the whole model)
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "inspect",
        [model],
        [
            ("--config", "value", config),
            ("--digest", "flag", digest),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def evaluate(
    model: Value,
    *,
    config: Value | bool | None = None,
    text: Value | bool | None = None,
    window: Value | bool | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    tasks: Value | Sequence[Value] | None = None,
    task_file: Value | Sequence[Value] | None = None,
    sample: Value | bool | None = None,
    seed: Value | bool | None = None,
    log_samples: Value | bool | None = None,
    force: bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Measure the perplexity of a model on a text, or its accuracy on tasks.

    A text is tokenised once and cut into non-overlapping windows; the mean negative
    log-likelihood over all predicted tokens is exponentiated once. Tasks are asked zero-shot as
    lm-evaluation-harness asks them.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens of a window; windows do not overlap, the rest is dropped [default: 128]
        limit: Measure the first N windows only
        field: Field or column of records that holds the text [default: text]
        data_dir: Folder in which named sets are looked for before the hub
        batch_tokens: Tokens that run together [default: chosen from memory]
        tasks: Tasks to ask: boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge,
        openbookqa, wikitext; their original files are looked for in --data-dir, then their
        copies on the hub, and --limit N asks the first N questions of each
        task_file: A task of your own, defined in a TOML file; may be given several times
        sample: Ask N questions of each task, drawn by --seed
        seed: Seed of --sample [default: 42]
        log_samples: Write every answer to a JSONL file
        force: Replace that file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "eval",
        [model],
        [
            ("--config", "value", config),
            ("--text", "value", text),
            ("--window", "value", window),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--tasks", "joined", tasks),
            ("--task-file", "repeated", task_file),
            ("--sample", "value", sample),
            ("--seed", "value", seed),
            ("--log-samples", "value", log_samples),
            ("--force", "switch", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def generate(
    model: Value,
    *,
    config: Value | bool | None = None,
    prompt: Value | bool | None = None,
    prompt_file: Value | bool | None = None,
    system: Value | bool | None = None,
    raw: bool = False,
    max_tokens: Value | bool | None = None,
    samples: Value | bool | None = None,
    temperature: Value | bool | None = None,
    top_k: Value | bool | None = None,
    top_p: Value | bool | None = None,
    seed: Value | bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Continue a prompt, or answer it where the model has a chat template.

    The text appears as it is made. It ends with the token that the model ends a text by, after
    --max-tokens, or at the end of the model's context. Without --temperature the most likely
    token is taken each time.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        prompt: What to answer or continue [default: what stdin says]
        prompt_file: Read the prompt from a file
        system: What stands before the prompt as the system's message
        raw: Continue the prompt as it stands, without the model's chat template
        max_tokens: Most tokens of an answer
        samples: Number of answers
        temperature: Divisor of the logits; 0 takes the most likely token
        top_k: Draw from the K most likely tokens only
        top_p: Draw from the most likely tokens that together have probability P only
        seed: Seed of the draws
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "generate",
        [model],
        [
            ("--config", "value", config),
            ("--prompt", "value", prompt),
            ("--prompt-file", "value", prompt_file),
            ("--system", "value", system),
            ("--raw", "flag", raw),
            ("--max-tokens", "value", max_tokens),
            ("--samples", "value", samples),
            ("--temperature", "value", temperature),
            ("--top-k", "value", top_k),
            ("--top-p", "value", top_p),
            ("--seed", "value", seed),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def latency(
    model: Value,
    *,
    config: Value | bool | None = None,
    against: Value | bool | None = None,
    prompt_tokens: Value | Sequence[Value] | None = None,
    new_tokens: Value | bool | None = None,
    rounds: Value | bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Measure how fast a model reads prompts and makes tokens, and what memory it takes.

    One sequence at a time, with a key-value cache. With --against, the two models take turns in
    every round, and ratios are taken round by round; the memory of each is that of a process of
    its own.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        against: Another model; ratios are MODEL's figures divided by its
        prompt_tokens: Lengths of the prompts [default: 128,512, as far as they fit the context]
        new_tokens: Tokens made after the first one
        rounds: Rounds that count; one more warms up
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "latency",
        [model],
        [
            ("--config", "value", config),
            ("--against", "value", against),
            ("--prompt-tokens", "joined", prompt_tokens),
            ("--new-tokens", "value", new_tokens),
            ("--rounds", "value", rounds),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def compare_models(
    *models: Value,
    text: Value | Sequence[Value] | None = None,
    window: Value | bool | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    tasks: Value | Sequence[Value] | None = None,
    task_file: Value | Sequence[Value] | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    no_latency: bool = False,
    prompt_tokens: Value | Sequence[Value] | None = None,
    new_tokens: Value | bool | None = None,
    rounds: Value | bool | None = None,
    out: Value | bool | None = None,
    force: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Compare models; the first one is the baseline.

    Prints Markdown tables: sizes, perplexities and task accuracies with standard errors,
    speeds, and the percentage of the baseline that each model retains; then, for every accuracy
    and loss, the difference from the baseline, paired over the same questions or windows, with
    a 95 % interval, and what is retained above chance.

    Arguments:
        models: Hugging Face folders, GGUF files, or hub ids; the first is the baseline
        text: Text to measure perplexity on, as for eval; may be given several times
        window: Tokens of a window [default: 128]
        limit: Measure the first N windows of each text, ask the first N questions of each task
        field: Field or column of records that holds the text [default: text]
        tasks: Tasks to ask, as for eval
        task_file: A task of your own, defined in a TOML file; may be given several times
        data_dir: Folder of named texts and of the tasks' data
        batch_tokens: Tokens that run together [default: chosen from memory]
        no_latency: Leave out speeds
        prompt_tokens: Lengths of the prompts [default: 128,512, as far as they fit the context]
        new_tokens: Tokens made after the first one
        rounds: Rounds that count; one more warms up
        out: Also write the result to a file, as it is printed
        force: Replace that file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "compare-models",
        [*models],
        [
            ("--text", "repeated", text),
            ("--window", "value", window),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--tasks", "joined", tasks),
            ("--task-file", "repeated", task_file),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--no-latency", "flag", no_latency),
            ("--prompt-tokens", "joined", prompt_tokens),
            ("--new-tokens", "value", new_tokens),
            ("--rounds", "value", rounds),
            ("--out", "value", out),
            ("--force", "flag", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def sample(
    model: Value,
    *,
    config: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    temperature: Value | bool | None = None,
    seed: Value | bool | None = None,
    out: Value | bool | None = None,
    force: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Draw token sequences from a model itself, as token ids.

    The file (a JSON array of arrays) serves as calibration set or as text to measure on where
    no other text is at hand. Sequences start after the token that opens a text; those that
    would end it early are never drawn.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        samples: Number of sequences
        sample_tokens: Tokens of a sequence
        temperature: Divisor of the logits; 0 takes the most likely token
        seed: Seed
        out: File to write
        force: Replace the file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "sample",
        [model],
        [
            ("--config", "value", config),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--temperature", "value", temperature),
            ("--seed", "value", seed),
            ("--out", "value", out),
            ("--force", "flag", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def stats(
    model: Value,
    *,
    config: Value | bool | None = None,
    calibration: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    seed: Value | bool | None = None,
    calibration_field: Value | bool | None = None,
    stats: Value | bool | None = None,
    terms: Value | bool | None = None,
    no_batch: bool = False,
    memory: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    force: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Collect the statistics of a calibration set into a file.

    Taylor terms, and the sums of what the pruned columns read: one forward and one backward
    pass, block by block, the samples in groups that fit --memory; the numbers do not depend on
    the groups. `prune --stats FILE` then scores in milliseconds. With --terms activations, a
    forward pass alone: enough for `prune --importance wanda` and `flap`.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        calibration: Text that calibration samples are drawn from, as for --text; token ids
        (*.json) are taken as they are
        samples: Number of calibration samples [default: 128, as far as the text gives them;
        stats: 10]
        sample_tokens: Tokens of a calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column of calibration records [default: text]
        stats: Statistics file: read if it is there and fits, else written
        terms: Per-sample terms: activations (a forward pass alone, for wanda and flap), coarse
        (also vector sums) or full (also element and Fisher sums)
        no_batch: Leave out the terms of the whole set, which param_first and param_mix need
        memory: Most memory, in GiB: samples run in groups that fit it, and what does not fit in
        any way is refused [default: what the machine has free]
        batch_tokens: Tokens that run together [default: chosen from memory]
        data_dir: Folder in which named sets are looked for before the hub
        force: Replace the statistics file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "stats",
        [model],
        [
            ("--config", "value", config),
            ("--calibration", "value", calibration),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--seed", "value", seed),
            ("--calibration-field", "value", calibration_field),
            ("--stats", "value", stats),
            ("--terms", "value", terms),
            ("--no-batch", "flag", no_batch),
            ("--memory", "value", memory),
            ("--batch-tokens", "value", batch_tokens),
            ("--data-dir", "value", data_dir),
            ("--force", "flag", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def prune(
    model: Value,
    *,
    config: Value | bool | None = None,
    fast: bool | None = None,
    ratio: Value | bool | None = None,
    target_params: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    calibration: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    seed: Value | bool | None = None,
    calibration_field: Value | bool | None = None,
    stats: Value | bool | None = None,
    importance: Value | bool | None = None,
    grouping: Value | bool | None = None,
    vocab: Value | bool | None = None,
    vocab_text: Value | Sequence[Value] | None = None,
    vocab_multiple_of: Value | bool | None = None,
    vocab_tolerance: Value | bool | None = None,
    learn_masks: Value | bool | None = None,
    learn_units: Value | Sequence[Value] | None = None,
    mask_budget: Value | bool | None = None,
    mask_loss: Value | bool | None = None,
    mask_text: Value | bool | None = None,
    mask_samples: Value | bool | None = None,
    mask_tokens: Value | bool | None = None,
    mask_held_out: Value | bool | None = None,
    mask_batch: Value | bool | None = None,
    mask_rate: Value | bool | None = None,
    mask_rate_end: Value | bool | None = None,
    mask_spread: Value | bool | None = None,
    mask_every: Value | bool | None = None,
    mask_patience: Value | bool | None = None,
    masks_state: Value | bool | None = None,
    compensate: Value | bool | None = None,
    compensate_text: Value | bool | None = None,
    compensate_samples: Value | bool | None = None,
    compensate_tokens: Value | bool | None = None,
    compensate_ridge: Value | bool | None = None,
    out: Value | bool | None = None,
    format: Value | Sequence[Value] | None = None,
    save_dtype: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
    force: bool | None = None,
    dry_run: bool = False,
    text: Value | bool | None = None,
    window: Value | bool | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    allow_overlap: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    memory: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Remove a share of a model's parameters and write what remains.

    Whole feed-forward channels and attention heads are scored on a calibration set, the least
    important ones are removed, and the rest is an ordinary dense model. Which channels stay is
    then learned by gradient, unless --fast is given. Options that are not given are filled in
    with what measured best; the result says which. Perplexity is measured before and after, on
    --text or else on calibration samples that nothing was chosen by.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        fast: The best result in seconds: structured Wanda by one forward pass, without
        gradients. Without it, what is not given is what gave the best result in minutes: masks
        are learned from there
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth
        target_params: Parameters to keep, in place of --ratio: 100M, 1.2B or a number [prune]
        layout: per-layer (widths differ between layers) or uniform (an ordinary model of its
        architecture) [default: per-layer]
        protect: Spare the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, where the others can give what is to go]
        attention_share: Share of what is removed that comes from attention, 0 to 1, or "free"
        to cut heads and channels alike [default: 0]
        multiple_of: Feed-forward widths become multiples of N: 32 for quantised GGUF rows, 256
        for K-quants [default: 1]
        kv_mode: groups (whole key-value groups) or query-heads (one query head of every group)
        [default: groups]
        drop_attention: Remove the attention sublayers of these layers whole
        allocation: local (the same ratio in every layer), curve:linear=X,quadratic=Y (ratios
        follow a curve over depth), global (one ranking), or global:NORMALISATION (none, mean,
        max, sum, rank, or standard, as FLAP compares layers) [default: local]
        sensitivity: Cut layers less the more it costs: each is cut alone, the loss is measured
        on calibration samples, and layers lose in proportion to its gain to the power of minus
        P [P: 1, where no number is given]
        calibration: Text that calibration samples are drawn from, as for --text; token ids
        (*.json) are taken as they are
        samples: Number of calibration samples [default: 128, as far as the text gives them;
        stats: 10]
        sample_tokens: Tokens of a calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column of calibration records [default: text]
        stats: Statistics file: read if it is there and fits, else written
        importance: Measure [default: wanda]. With weights w, gradient g_s of sample s, ḡ and F̄
        the means over samples of g_s and g_s², Σ over a row or column: LLM-Pruner's param_first
        Σ|w·ḡ|, vectorize |Σ w·ḡ|, param_second Σ w²·F̄ and param_mix Σ|w·ḡ − ½·w²·F̄|;
        sample_first, the mean over samples of Σ|w·g_s|; without gradients, by a forward pass
        alone, of the columns of the output and down projections that read x: wanda Σ|w|·‖x‖ and
        flap Σ w²·Var(x); the controls magnitude_l1, magnitude_l2 and random; or
        adapruner:alpha1=0.5,beta_coarse=1,beta_fine=1,normalisation=mean, the blend alpha1·C +
        (1 − alpha1)·F of C = |Σ w·ḡ − beta_coarse·Σ ½·w²·F̄| and F = mean over samples of
        Σ|w·g_s| + beta_fine·Σ ½·w²·F̄, each normalised within its layer. fine=set makes F of
        the mean gradient instead, Σ|w·ḡ| + beta_fine·Σ ½·w²·F̄, and fine=mixed Σ|w·ḡ −
        ½·w²·F̄|: as LLM-Pruner has them, of the whole calibration set.
        activation=0.3,metric=wanda (or flap) gives such a metric 0.3 of the blend
        grouping: How the rows and columns of a unit become one number: sum, mean, max or prod
        [default: sum]
        vocab: Keep the N tokens that texts of the kind at hand need most, or "auto" for as few
        as --vocab-tolerance allows. Bytes, special and added tokens and those of the chat
        template always stay, so that every text still has ids; the tokenizer, embedding, head
        and all ids in the model's files follow. What this removes counts towards --ratio;
        without --ratio the layers stay as they are
        vocab_text: Text whose tokens are counted, as for --text; may be given several times.
        Name texts of all languages and kinds that the model is meant for [default: the
        calibration text]
        vocab_multiple_of: The embedding's rows become a multiple of N, by rows that no token
        has and whose logit is never the largest [default: 1]
        vocab_tolerance: What "auto" allows: the share of tokens that held-out text may take
        more than in the whole vocabulary [default: 0.005]
        learn_masks: Learn which units stay, in so many steps: every unit has a score, the best
        by score run, exactly as many as the plan keeps, and gradients through a hard mask move
        the scores. The plan is where it begins; the step is chosen on samples that are held
        out, the plan among them. 0 for none [default: 0; prune: 60, unless --fast is given]
        learn_units: Units whose masks are learned: ffn (channels), kv-groups (groups, in layers
        that lose some), sublayers (which attention sublayers are dropped) [default: ffn]
        mask_budget: per-layer (every layer keeps as many units as planned) or free (layers
        exchange units within the same total) [default: per-layer]
        mask_loss: What is learned from: text (its likelihood), logits (the dense model's 64
        most likely tokens at every position) or hidden (the dense model's block outputs; it
        then runs along) [default: text]
        mask_text: Text to learn masks on, as for --text [default: the calibration text]
        mask_samples: Number of samples, those that are held out included [default: 512]
        mask_tokens: Tokens of such a sample [default: 128]
        mask_held_out: Samples that are held out to choose the step [default: a sixteenth, at
        least 8]
        mask_batch: Samples of a step [default: 8]
        mask_rate: Learning rate of the first step (Adam) [default: 0.05]
        mask_rate_end: Learning rate that half a cosine leads down to [default: a tenth of
        --mask-rate]
        mask_spread: Standard deviation of the scores of a layer before the first step: the
        smaller, the more units change [default: 1]
        mask_every: Steps from one measurement on held-out samples to the next [default: 20]
        mask_patience: Stop after N measurements without a lower loss [default: 3]
        masks_state: Folder in which the state is kept at every measurement; after a stop the
        same command goes on from it, with the same result
        compensate: Make up for what was removed in closed form, on a text, wherever held-out
        samples of it agree that it helps: fit (the matrices that read it anew, by least
        squares; no change of shape) or bias (the mean of what it gave is added as a bias; needs
        few samples, and the model gets biases, zeros where it has none) [fit, where no form is
        named]
        compensate_text: Text to fit on, as for --text [default: the calibration text]
        compensate_samples: Number of samples to fit on; all their tokens should be many times
        the channels that a layer keeps [default: 128]
        compensate_tokens: Tokens of such a sample [default: 128]
        compensate_ridge: How strongly each fit is held to the sliced weights, as a share of the
        mean square of what they read: a number, or auto for the power of ten that serves
        held-out samples best [default: auto]
        out: Folder to write
        format: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both [default:
        hf]
        save_dtype: Type of the safetensors weights: keep (as the model has them, f16 where they
        are quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all of them (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 where it is quantised]
        force: Replace an earlier output of this program
        dry_run: Print the plan, write nothing
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens of a window; windows do not overlap, the rest is dropped [default: 128]
        limit: Measure the first N windows only
        field: Field or column of records that holds the text [default: text]
        data_dir: Folder in which named sets are looked for before the hub
        batch_tokens: Tokens that run together [default: chosen from memory]
        allow_overlap: Measure even on text that shares passages with the calibration set
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        memory: Most memory that collecting statistics or learning masks takes, in GiB: they are
        run in parts that fit it, and what does not fit in any way is refused [default: what the
        machine has free]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "prune",
        [model],
        [
            ("--config", "value", config),
            ("--fast", "switch", fast),
            ("--ratio", "value", ratio),
            ("--target-params", "value", target_params),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--sensitivity", "value", sensitivity),
            ("--calibration", "value", calibration),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--seed", "value", seed),
            ("--calibration-field", "value", calibration_field),
            ("--stats", "value", stats),
            ("--importance", "value", importance),
            ("--grouping", "value", grouping),
            ("--vocab", "value", vocab),
            ("--vocab-text", "repeated", vocab_text),
            ("--vocab-multiple-of", "value", vocab_multiple_of),
            ("--vocab-tolerance", "value", vocab_tolerance),
            ("--learn-masks", "value", learn_masks),
            ("--learn-units", "joined", learn_units),
            ("--mask-budget", "value", mask_budget),
            ("--mask-loss", "value", mask_loss),
            ("--mask-text", "value", mask_text),
            ("--mask-samples", "value", mask_samples),
            ("--mask-tokens", "value", mask_tokens),
            ("--mask-held-out", "value", mask_held_out),
            ("--mask-batch", "value", mask_batch),
            ("--mask-rate", "value", mask_rate),
            ("--mask-rate-end", "value", mask_rate_end),
            ("--mask-spread", "value", mask_spread),
            ("--mask-every", "value", mask_every),
            ("--mask-patience", "value", mask_patience),
            ("--masks-state", "value", masks_state),
            ("--compensate", "value", compensate),
            ("--compensate-text", "value", compensate_text),
            ("--compensate-samples", "value", compensate_samples),
            ("--compensate-tokens", "value", compensate_tokens),
            ("--compensate-ridge", "value", compensate_ridge),
            ("--out", "value", out),
            ("--format", "joined", format),
            ("--save-dtype", "value", save_dtype),
            ("--gguf-type", "value", gguf_type),
            ("--force", "switch", force),
            ("--dry-run", "flag", dry_run),
            ("--text", "value", text),
            ("--window", "value", window),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--allow-overlap", "flag", allow_overlap),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--memory", "value", memory),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def search(
    model: Value,
    *,
    config: Value | bool | None = None,
    study: Value | bool | None = None,
    storage: Value | bool | None = None,
    space: Value | bool | None = None,
    trials: Value | bool | None = None,
    max_minutes: Value | bool | None = None,
    patience: Value | bool | None = None,
    early_stop: Value | bool | None = None,
    chunk: Value | bool | None = None,
    test: Value | Sequence[Value] | None = None,
    test_windows: Value | bool | None = None,
    workers: Value | bool | None = None,
    memory: Value | bool | None = None,
    anew: bool | None = None,
    allow_overlap: bool | None = None,
    ratio: Value | bool | None = None,
    target_params: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    calibration: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    seed: Value | bool | None = None,
    calibration_field: Value | bool | None = None,
    stats: Value | bool | None = None,
    text: Value | bool | None = None,
    window: Value | bool | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    search: Value | bool | None = None,
    sampler: Value | bool | None = None,
    sampler_seed: Value | bool | None = None,
    show_space: bool = False,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Find the calibration samples, the metric and the cut that lose least.

    Statistics of a whole pool (--samples, here 128 by default) are collected once. Each trial
    scores, plans, slices and measures one configuration on a text of its own (--limit windows
    spread over --text, 32 by default), chunk by chunk, and is stopped early where it is
    hopeless. The study's folder is resumed where it exists; several commands may work on it at
    once. `apply --study` prunes by the best trial.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        study: Folder of the study: resumed where it exists
        storage: Keep the trials in Redis, redis://HOST:PORT, so that workers on many machines
        share them; each machine has a --study folder of its own. Start the server with
        --appendonly yes: it may then be restarted at any time, and with --appendfsync always
        also be killed
        space: What is searched at all: full (samples, metric and where the model is cut) or
        paper (samples and metric) [default: full]
        trials: Trials, complete, stopped early or infeasible, those of earlier runs and of
        other workers among them [default: 150]
        max_minutes: Start no trial after so many minutes
        patience: End after so many trials without a better one
        early_stop: When a trial is given up: wilcoxon (worse than the best one, chunk by
        chunk), median, halving or off [default: wilcoxon]
        chunk: Windows of a chunk of the search-evaluation text [default: 1]
        test: Text that the best trial is reported on and the search never sees; may be given
        several times
        test_windows: Windows of each of these texts, spread evenly [default: 128]
        workers: Local processes that work on the study [default: 1]
        memory: Most memory, in GiB: the pool's samples run in groups that fit it, and a search
        that needs more is refused before it begins [default: what the machine has free]
        anew: Where the folder holds another search, move that to STUDY.1 (or the next free
        number) and begin anew, with its statistics where they fit
        allow_overlap: Go on though texts share passages
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth
        target_params: Parameters to keep, in place of --ratio: 100M, 1.2B or a number [prune]
        layout: per-layer (widths differ between layers) or uniform (an ordinary model of its
        architecture) [default: per-layer]
        protect: Spare the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, where the others can give what is to go]
        attention_share: Share of what is removed that comes from attention, 0 to 1, or "free"
        to cut heads and channels alike [default: 0]
        multiple_of: Feed-forward widths become multiples of N: 32 for quantised GGUF rows, 256
        for K-quants [default: 1]
        kv_mode: groups (whole key-value groups) or query-heads (one query head of every group)
        [default: groups]
        drop_attention: Remove the attention sublayers of these layers whole
        allocation: local (the same ratio in every layer), curve:linear=X,quadratic=Y (ratios
        follow a curve over depth), global (one ranking), or global:NORMALISATION (none, mean,
        max, sum, rank, or standard, as FLAP compares layers) [default: local]
        sensitivity: Cut layers less the more it costs: each is cut alone, the loss is measured
        on calibration samples, and layers lose in proportion to its gain to the power of minus
        P [P: 1, where no number is given]
        calibration: Text that calibration samples are drawn from, as for --text; token ids
        (*.json) are taken as they are
        samples: Number of calibration samples [default: 128, as far as the text gives them;
        stats: 10]
        sample_tokens: Tokens of a calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column of calibration records [default: text]
        stats: Statistics file: read if it is there and fits, else written
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens of a window; windows do not overlap, the rest is dropped [default: 128]
        limit: Measure the first N windows only
        field: Field or column of records that holds the text [default: text]
        data_dir: Folder in which named sets are looked for before the hub
        batch_tokens: Tokens that run together [default: chosen from memory]
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        search: What varies: joint (everything), data (the samples alone), metric (all but the
        samples) or baseline (random samples, LLM-Pruner's setting)
        sampler: What proposes: tpe or random
        sampler_seed: Seed of the sampler [default: --seed]
        show_space: Show the space and why its ranges are what they are, search nothing
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "search",
        [model],
        [
            ("--config", "value", config),
            ("--study", "value", study),
            ("--storage", "value", storage),
            ("--space", "value", space),
            ("--trials", "value", trials),
            ("--max-minutes", "value", max_minutes),
            ("--patience", "value", patience),
            ("--early-stop", "value", early_stop),
            ("--chunk", "value", chunk),
            ("--test", "repeated", test),
            ("--test-windows", "value", test_windows),
            ("--workers", "value", workers),
            ("--memory", "value", memory),
            ("--anew", "switch", anew),
            ("--allow-overlap", "switch", allow_overlap),
            ("--ratio", "value", ratio),
            ("--target-params", "value", target_params),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--sensitivity", "value", sensitivity),
            ("--calibration", "value", calibration),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--seed", "value", seed),
            ("--calibration-field", "value", calibration_field),
            ("--stats", "value", stats),
            ("--text", "value", text),
            ("--window", "value", window),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--search", "value", search),
            ("--sampler", "value", sampler),
            ("--sampler-seed", "value", sampler_seed),
            ("--show-space", "flag", show_space),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def compare(
    model: Value,
    *,
    config: Value | bool | None = None,
    study: Value | bool | None = None,
    storage: Value | bool | None = None,
    space: Value | bool | None = None,
    trials: Value | bool | None = None,
    max_minutes: Value | bool | None = None,
    patience: Value | bool | None = None,
    early_stop: Value | bool | None = None,
    chunk: Value | bool | None = None,
    test: Value | Sequence[Value] | None = None,
    test_windows: Value | bool | None = None,
    workers: Value | bool | None = None,
    memory: Value | bool | None = None,
    anew: bool | None = None,
    allow_overlap: bool | None = None,
    ratio: Value | bool | None = None,
    target_params: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    calibration: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    seed: Value | bool | None = None,
    calibration_field: Value | bool | None = None,
    stats: Value | bool | None = None,
    text: Value | bool | None = None,
    window: Value | bool | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    arms: Value | Sequence[Value] | None = None,
    seeds: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Compare ways of searching with equal budgets and several seeds.

    All of them use one bank of statistics. The table gives the median and the range of the best
    losses over seeds, perplexities on texts that no search saw, and for each other way whether
    the ranges show a difference (at least three seeds each, and no overlap) and after how many
    trials the median reached the other's final median. What is done already is not done again.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        study: Folder of the study: resumed where it exists
        storage: Keep the trials in Redis, redis://HOST:PORT, so that workers on many machines
        share them; each machine has a --study folder of its own. Start the server with
        --appendonly yes: it may then be restarted at any time, and with --appendfsync always
        also be killed
        space: What is searched at all: full (samples, metric and where the model is cut) or
        paper (samples and metric) [default: full]
        trials: Trials, complete, stopped early or infeasible, those of earlier runs and of
        other workers among them [default: 150]
        max_minutes: Start no trial after so many minutes
        patience: End after so many trials without a better one
        early_stop: When a trial is given up: wilcoxon (worse than the best one, chunk by
        chunk), median, halving or off [default: wilcoxon]
        chunk: Windows of a chunk of the search-evaluation text [default: 1]
        test: Text that the best trial is reported on and the search never sees; may be given
        several times
        test_windows: Windows of each of these texts, spread evenly [default: 128]
        workers: Local processes that work on the study [default: 1]
        memory: Most memory, in GiB: the pool's samples run in groups that fit it, and a search
        that needs more is refused before it begins [default: what the machine has free]
        anew: Where the folder holds another search, move that to STUDY.1 (or the next free
        number) and begin anew, with its statistics where they fit
        allow_overlap: Go on though texts share passages
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth
        target_params: Parameters to keep, in place of --ratio: 100M, 1.2B or a number [prune]
        layout: per-layer (widths differ between layers) or uniform (an ordinary model of its
        architecture) [default: per-layer]
        protect: Spare the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, where the others can give what is to go]
        attention_share: Share of what is removed that comes from attention, 0 to 1, or "free"
        to cut heads and channels alike [default: 0]
        multiple_of: Feed-forward widths become multiples of N: 32 for quantised GGUF rows, 256
        for K-quants [default: 1]
        kv_mode: groups (whole key-value groups) or query-heads (one query head of every group)
        [default: groups]
        drop_attention: Remove the attention sublayers of these layers whole
        allocation: local (the same ratio in every layer), curve:linear=X,quadratic=Y (ratios
        follow a curve over depth), global (one ranking), or global:NORMALISATION (none, mean,
        max, sum, rank, or standard, as FLAP compares layers) [default: local]
        sensitivity: Cut layers less the more it costs: each is cut alone, the loss is measured
        on calibration samples, and layers lose in proportion to its gain to the power of minus
        P [P: 1, where no number is given]
        calibration: Text that calibration samples are drawn from, as for --text; token ids
        (*.json) are taken as they are
        samples: Number of calibration samples [default: 128, as far as the text gives them;
        stats: 10]
        sample_tokens: Tokens of a calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column of calibration records [default: text]
        stats: Statistics file: read if it is there and fits, else written
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens of a window; windows do not overlap, the rest is dropped [default: 128]
        limit: Measure the first N windows only
        field: Field or column of records that holds the text [default: text]
        data_dir: Folder in which named sets are looked for before the hub
        batch_tokens: Tokens that run together [default: chosen from memory]
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        arms: What is compared: joint (TPE over everything), random, data, metric, baseline
        (median of ten draws); ARM@TRIALS and ARM@TRIALSxSEEDS say how many of its own
        seeds: Seeds of each
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "compare",
        [model],
        [
            ("--config", "value", config),
            ("--study", "value", study),
            ("--storage", "value", storage),
            ("--space", "value", space),
            ("--trials", "value", trials),
            ("--max-minutes", "value", max_minutes),
            ("--patience", "value", patience),
            ("--early-stop", "value", early_stop),
            ("--chunk", "value", chunk),
            ("--test", "repeated", test),
            ("--test-windows", "value", test_windows),
            ("--workers", "value", workers),
            ("--memory", "value", memory),
            ("--anew", "switch", anew),
            ("--allow-overlap", "switch", allow_overlap),
            ("--ratio", "value", ratio),
            ("--target-params", "value", target_params),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--sensitivity", "value", sensitivity),
            ("--calibration", "value", calibration),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--seed", "value", seed),
            ("--calibration-field", "value", calibration_field),
            ("--stats", "value", stats),
            ("--text", "value", text),
            ("--window", "value", window),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--arms", "joined", arms),
            ("--seeds", "value", seeds),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def correlate(
    study: Value,
    *,
    model: Value | bool | None = None,
    study_name: Value | bool | None = None,
    storage: Value | bool | None = None,
    trials: Value | bool | None = None,
    ratios: Value | Sequence[Value] | None = None,
    text: Value | bool | None = None,
    test: Value | Sequence[Value] | None = None,
    test_windows: Value | bool | None = None,
    allow_overlap: bool = False,
    tasks: Value | Sequence[Value] | None = None,
    task_file: Value | Sequence[Value] | None = None,
    limit: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    resamples: Value | bool | None = None,
    seed: Value | bool | None = None,
    dry_run: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Correlate perplexity with task accuracy over a study's trials.

    Chooses trials over the whole spread of a study's losses, always with the best one and the
    first (the hand setting), and prunes them to each of --ratios. Measures every model on the
    study's search-evaluation text (--text), on test texts and on tasks. Correlates every loss
    with every accuracy, over all models and within each ratio of at least five: Spearman and
    Pearson with 95 % intervals, and what they say. Models of one trial at several ratios depend
    on each other: they are resampled together and count as one, and fewer than ten trials are
    not judged, only shown with the p of a permutation test. A loss is a poor guide where the
    lower bound of |Spearman| is below 0.5; where it tells ratios apart but not models of one
    ratio, and where accuracies differ by no more than their standard errors, the command says
    that instead. It measures the dense model as well, and leaves it out of the correlations.

    Every model is kept in the study's folder as soon as it is measured: the same line again
    goes on, and measures nothing twice. `report` shows the result.

    Arguments:
        study: Folder of the study
        model: The study's model [default: where it was when it was searched on]
        study_name: Which study of the folder [default: the one with the best trial]
        storage: Redis that holds the trials, as given to search
        trials: Trials that are chosen
        ratios: Ratios that each of them is pruned to: trials times ratios models [default: the
        study's own]
        text: The study's search-evaluation text, as given to search
        test: Text to measure on besides, in windows of the same length; may be given several
        times
        test_windows: Windows of each of these texts, spread evenly
        allow_overlap: Take test texts that share passages with the study's pool or --text
        tasks: Tasks to ask, as for eval
        task_file: A task of your own, defined in a TOML file; may be given several times
        limit: Ask the first N questions of each task [default: all]
        field: Field or column of records that holds the text [default: text]
        data_dir: Folder in which data and named sets are looked for
        batch_tokens: Tokens of tasks that run together [default: chosen from memory]
        resamples: Resamples of the intervals, and random permutations
        seed: Seed of both
        dry_run: Say which models would be measured and what that takes, measure nothing
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "correlate",
        [study],
        [
            ("--model", "value", model),
            ("--study-name", "value", study_name),
            ("--storage", "value", storage),
            ("--trials", "value", trials),
            ("--ratios", "joined", ratios),
            ("--text", "value", text),
            ("--test", "repeated", test),
            ("--test-windows", "value", test_windows),
            ("--allow-overlap", "flag", allow_overlap),
            ("--tasks", "joined", tasks),
            ("--task-file", "repeated", task_file),
            ("--limit", "value", limit),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--batch-tokens", "value", batch_tokens),
            ("--resamples", "value", resamples),
            ("--seed", "value", seed),
            ("--dry-run", "flag", dry_run),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def trials(
    study: Value,
    *,
    storage: Value | bool | None = None,
    study_name: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """List the trials of a study: state, loss, seconds and parameters of each.

    As text a table of the trials from the best to the worst; with --json rows for a data frame,
    by number.

    Arguments:
        study: Folder of the study
        storage: Redis that holds the trials, as given to search
        study_name: The study, where the folder holds several [default: the one with the best
        trial]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "trials",
        [study],
        [
            ("--storage", "value", storage),
            ("--study-name", "value", study_name),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def report(
    study: Value,
    *,
    storage: Value | bool | None = None,
    recovery: Value | bool | None = None,
    models: Value | bool | None = None,
    out: Value | bool | None = None,
    force: bool = False,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Make a page of a study: what was found, how, and what it cost.

    The page is one file that loads nothing from elsewhere: best loss so far over trials and
    seconds, coefficients against loss, importances of the parameters, the samples that were
    chosen, widths of every layer, warnings, costs, and the command that makes it again; with
    --recovery, losses and learning rate of the training after it; with --models, the models
    side by side, with standard errors and paired differences.

    Arguments:
        study: Folder of the study
        storage: Redis that holds the trials, as given to search
        recovery: Output folder of a recovery, whose training is shown too
        models: Comparison of the models that came of it, as compare-models --json --out wrote
        it
        out: File to write
        force: Replace the file if it exists
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "report",
        [study],
        [
            ("--storage", "value", storage),
            ("--recovery", "value", recovery),
            ("--models", "value", models),
            ("--out", "value", out),
            ("--force", "flag", force),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def run(
    config: Value,
    *,
    init: Value | bool | None = None,
    force: bool = False,
    dry_run: bool = False,
    allow_overlap: bool = False,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Search, prune, recover, evaluate and report, from one configuration file.

    Each stage is a command of this program with the same file, run after the other; what is
    done is not done again, what was interrupted goes on. --init writes a configuration for a
    model, with every line explained.

    Arguments:
        config: Configuration file
        init: Write a configuration for this model, run nothing
        force: Replace the configuration if it exists
        dry_run: Show the commands, run nothing
        allow_overlap: Go on though training data or a text that is fitted or calibrated on
        share passages with a test text
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "run",
        [config],
        [
            ("--init", "value", init),
            ("--force", "flag", force),
            ("--dry-run", "flag", dry_run),
            ("--allow-overlap", "flag", allow_overlap),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def apply(
    model: Value,
    *,
    config: Value | bool | None = None,
    plan: Value | bool | None = None,
    study: Value | bool | None = None,
    study_name: Value | bool | None = None,
    storage: Value | bool | None = None,
    trial: Value | bool | None = None,
    ratio: Value | bool | None = None,
    learn_masks: Value | bool | None = None,
    learn_units: Value | Sequence[Value] | None = None,
    mask_budget: Value | bool | None = None,
    mask_loss: Value | bool | None = None,
    mask_text: Value | bool | None = None,
    mask_samples: Value | bool | None = None,
    mask_tokens: Value | bool | None = None,
    mask_held_out: Value | bool | None = None,
    mask_batch: Value | bool | None = None,
    mask_rate: Value | bool | None = None,
    mask_rate_end: Value | bool | None = None,
    mask_spread: Value | bool | None = None,
    mask_every: Value | bool | None = None,
    mask_patience: Value | bool | None = None,
    masks_state: Value | bool | None = None,
    compensate: Value | bool | None = None,
    compensate_text: Value | bool | None = None,
    compensate_samples: Value | bool | None = None,
    compensate_tokens: Value | bool | None = None,
    compensate_ridge: Value | bool | None = None,
    seed: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    test: Value | Sequence[Value] | None = None,
    allow_overlap: bool = False,
    out: Value | bool | None = None,
    format: Value | Sequence[Value] | None = None,
    save_dtype: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
    force: bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    memory: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Apply a plan, or the best trial of a study.

    A plan is a manifest.json of `prune`, or the `full_plan` of `prune --dry-run --json`, and
    fits the model it was made for. A study may be of another model of the family: statistics of
    the same samples are collected on this one, and what could not be carried over is said. With
    --ratio, a study's trial removes more or less than in the search. With --learn-masks, which
    units stay is learned by gradient, within the widths of the plan. With --compensate, what
    was removed is made up for on a text.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        plan: The plan, or a manifest that holds one
        study: Folder of a study
        study_name: Which study of the folder [default: the one with the best trial]
        storage: Redis that holds the trials, as given to search
        trial: Which trial of the study [default: the best one]
        ratio: Share of all parameters to remove [default: the study's]
        learn_masks: Learn which units stay, in so many steps: every unit has a score, the best
        by score run, exactly as many as the plan keeps, and gradients through a hard mask move
        the scores. The plan is where it begins; the step is chosen on samples that are held
        out, the plan among them. 0 for none [default: 0; prune: 60, unless --fast is given]
        learn_units: Units whose masks are learned: ffn (channels), kv-groups (groups, in layers
        that lose some), sublayers (which attention sublayers are dropped) [default: ffn]
        mask_budget: per-layer (every layer keeps as many units as planned) or free (layers
        exchange units within the same total) [default: per-layer]
        mask_loss: What is learned from: text (its likelihood), logits (the dense model's 64
        most likely tokens at every position) or hidden (the dense model's block outputs; it
        then runs along) [default: text]
        mask_text: Text to learn masks on, as for --text [default: the calibration text]
        mask_samples: Number of samples, those that are held out included [default: 512]
        mask_tokens: Tokens of such a sample [default: 128]
        mask_held_out: Samples that are held out to choose the step [default: a sixteenth, at
        least 8]
        mask_batch: Samples of a step [default: 8]
        mask_rate: Learning rate of the first step (Adam) [default: 0.05]
        mask_rate_end: Learning rate that half a cosine leads down to [default: a tenth of
        --mask-rate]
        mask_spread: Standard deviation of the scores of a layer before the first step: the
        smaller, the more units change [default: 1]
        mask_every: Steps from one measurement on held-out samples to the next [default: 20]
        mask_patience: Stop after N measurements without a lower loss [default: 3]
        masks_state: Folder in which the state is kept at every measurement; after a stop the
        same command goes on from it, with the same result
        compensate: Make up for what was removed in closed form, on a text, wherever held-out
        samples of it agree that it helps: fit (the matrices that read it anew, by least
        squares; no change of shape) or bias (the mean of what it gave is added as a bias; needs
        few samples, and the model gets biases, zeros where it has none) [fit, where no form is
        named]
        compensate_text: Text to fit on, as for --text [default: the calibration text]
        compensate_samples: Number of samples to fit on; all their tokens should be many times
        the channels that a layer keeps [default: 128]
        compensate_tokens: Tokens of such a sample [default: 128]
        compensate_ridge: How strongly each fit is held to the sliced weights, as a share of the
        mean square of what they read: a number, or auto for the power of ten that serves
        held-out samples best [default: auto]
        seed: Seed of the samples to learn masks or to fit on [default: 42]
        data_dir: Folder in which named sets are looked for before the hub
        test: Text that the model will be measured on: a text to learn masks or to fit on that
        shares passages with it is refused; may be given several times
        allow_overlap: Learn masks or fit even on text that shares passages with a test text
        out: Folder to write
        format: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both [default:
        hf]
        save_dtype: Type of the safetensors weights: keep (as the model has them, f16 where they
        are quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all of them (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 where it is quantised]
        force: Replace an earlier output of this program
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        memory: Most memory that learning masks or a compensation takes, in GiB; what needs more
        is refused [default: what the machine has free]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "apply",
        [model],
        [
            ("--config", "value", config),
            ("--plan", "value", plan),
            ("--study", "value", study),
            ("--study-name", "value", study_name),
            ("--storage", "value", storage),
            ("--trial", "value", trial),
            ("--ratio", "value", ratio),
            ("--learn-masks", "value", learn_masks),
            ("--learn-units", "joined", learn_units),
            ("--mask-budget", "value", mask_budget),
            ("--mask-loss", "value", mask_loss),
            ("--mask-text", "value", mask_text),
            ("--mask-samples", "value", mask_samples),
            ("--mask-tokens", "value", mask_tokens),
            ("--mask-held-out", "value", mask_held_out),
            ("--mask-batch", "value", mask_batch),
            ("--mask-rate", "value", mask_rate),
            ("--mask-rate-end", "value", mask_rate_end),
            ("--mask-spread", "value", mask_spread),
            ("--mask-every", "value", mask_every),
            ("--mask-patience", "value", mask_patience),
            ("--masks-state", "value", masks_state),
            ("--compensate", "value", compensate),
            ("--compensate-text", "value", compensate_text),
            ("--compensate-samples", "value", compensate_samples),
            ("--compensate-tokens", "value", compensate_tokens),
            ("--compensate-ridge", "value", compensate_ridge),
            ("--seed", "value", seed),
            ("--data-dir", "value", data_dir),
            ("--test", "repeated", test),
            ("--allow-overlap", "flag", allow_overlap),
            ("--out", "value", out),
            ("--format", "joined", format),
            ("--save-dtype", "value", save_dtype),
            ("--gguf-type", "value", gguf_type),
            ("--force", "switch", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--memory", "value", memory),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def recover(
    model: Value,
    *,
    config: Value | bool | None = None,
    data: Value | bool | None = None,
    field: Value | bool | None = None,
    data_dir: Value | bool | None = None,
    test: Value | Sequence[Value] | None = None,
    allow_overlap: bool | None = None,
    cutoff: Value | bool | None = None,
    train_on_prompt: bool | None = None,
    validation: Value | bool | None = None,
    method: Value | bool | None = None,
    rank: Value | bool | None = None,
    alpha: Value | bool | None = None,
    dropout: Value | bool | None = None,
    targets: Value | Sequence[Value] | None = None,
    rslora: bool | None = None,
    batch_size: Value | bool | None = None,
    batch_tokens: Value | bool | None = None,
    micro_tokens: Value | bool | None = None,
    learning_rate: Value | bool | None = None,
    schedule: Value | bool | None = None,
    warmup: Value | bool | None = None,
    weight_decay: Value | bool | None = None,
    max_norm: Value | bool | None = None,
    epochs: Value | bool | None = None,
    max_steps: Value | bool | None = None,
    max_minutes: Value | bool | None = None,
    checkpointing: bool | None = None,
    validate_every: Value | bool | None = None,
    patience: Value | bool | None = None,
    save_every: Value | bool | None = None,
    save_minutes: Value | bool | None = None,
    seed: Value | bool | None = None,
    teacher: Value | bool | None = None,
    temperature: Value | bool | None = None,
    mix: Value | bool | None = None,
    top_logits: Value | bool | None = None,
    match_hidden: Value | bool | None = None,
    work: Value | bool | None = None,
    keep_work: bool | None = None,
    memory: Value | bool | None = None,
    out: Value | bool | None = None,
    format: Value | Sequence[Value] | None = None,
    save_dtype: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
    force: bool | None = None,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Train a pruned model on instructions, conversations or text.

    With --method lora, --out gets the adapter as PEFT reads it (adapter/) and with --format the
    merged model; with --method full the model. A training that was stopped or killed goes on
    where its last state was saved when the same command is given again.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        data: Training data: JSON or JSONL records with "instruction", "input" and "output"
        (Alpaca), with "messages" (conversations, by the model's chat template, to which
        strftime_now says 26 July 2024) or with a text field; or a text or named set, as for
        eval
        field: Field or column of plain text records [default: text]
        data_dir: Folder in which named sets are looked for before the hub
        test: Text that the model will be measured on: data that share passages with it are
        refused; may be given several times
        allow_overlap: Train even on data that share passages with a test text
        cutoff: Most tokens of a sequence; what is longer is cut, and said [default: 256]
        train_on_prompt: Learn the prompts too
        validation: Records kept for validation: a share (0.05) or a number (200) [default:
        0.05]
        method: lora (low-rank updates beside frozen weights) or full (all parameters) [default:
        lora]
        rank: Rank of the updates [default: 8]
        alpha: Updates are scaled by ALPHA / R [default: 16]
        dropout: Share of an update's inputs that is set to zero at a step [default: 0.05]
        targets: Projections that get an update: q, k, v, o, gate, up, down [default: all]
        rslora: Scale updates by ALPHA / √R (rsLoRA)
        batch_size: Sequences of a step [default: 64]
        batch_tokens: Tokens of a step, in place of --batch-size
        micro_tokens: Tokens that run together; gradients of a step are summed over such parts
        [default: 1024]
        learning_rate: Highest learning rate [default: 1e-4, 1e-5 for full]
        schedule: How it goes down: linear, cosine or constant [default: linear]
        warmup: Steps over which the learning rate rises from 0, at most half of the training
        [default: 10]
        weight_decay: Decay of the weights (AdamW) [default: 0]
        max_norm: Gradients of a larger norm are scaled down to it [default: 1]
        epochs: Passes over the data [default: 2, or as many as --max-steps takes]
        max_steps: Most steps
        max_minutes: Most minutes, those before a stop included
        checkpointing: Compute each block again in the backward pass: slower, in less memory
        validate_every: Steps from one validation to the next [default: 50]
        patience: Stop after N validations without a better loss; the best parameters are kept
        in any case
        save_every: Steps from one saved state to the next [default: 50]
        save_minutes: Minutes after which the state is saved in any case [default: 5]
        seed: Seed of split, orders, dropout and first adapter [default: 42]
        teacher: Learn from this model's probabilities too: the one before pruning
        temperature: Divisor of the logits of both when learning from a teacher [default: 1]
        mix: Share of the teacher in the loss [default: 0.5]
        top_logits: Most likely tokens of a place that are taken from the teacher [default: 16]
        match_hidden: Match the outputs of all blocks to the teacher's too, with this weight in
        the loss: the mean over blocks and tokens of |h - t|²/|t|². The teacher, the model
        before pruning, then runs along with every step
        work: Folder of the state, log and teacher's probabilities; a training that was stopped
        goes on from it [default: --out with .work behind]
        keep_work: Keep that folder once the output is written
        memory: Most memory, in GiB: a training that needs more is refused before it begins
        [default: what is there]
        out: Folder to write
        format: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both [default:
        hf]
        save_dtype: Type of the safetensors weights: keep (as the model has them, f16 where they
        are quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all of them (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 where it is quantised]
        force: Replace an earlier output of this program
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Type of the weights while the model runs: auto, f32 or bf16; auto is f32 on the
        CPU and bf16 elsewhere [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (f32;
        where the processor multiplies bf16 faster, rows that meet bf16 weights are rounded to
        bf16) or high (16-bit integers with a scale for each row: closer than TF32, faster on
        processors with VNNI) [default: highest]
        threads: Threads [default: one a core]
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "recover",
        [model],
        [
            ("--config", "value", config),
            ("--data", "value", data),
            ("--field", "value", field),
            ("--data-dir", "value", data_dir),
            ("--test", "repeated", test),
            ("--allow-overlap", "switch", allow_overlap),
            ("--cutoff", "value", cutoff),
            ("--train-on-prompt", "switch", train_on_prompt),
            ("--validation", "value", validation),
            ("--method", "value", method),
            ("--rank", "value", rank),
            ("--alpha", "value", alpha),
            ("--dropout", "value", dropout),
            ("--targets", "joined", targets),
            ("--rslora", "switch", rslora),
            ("--batch-size", "value", batch_size),
            ("--batch-tokens", "value", batch_tokens),
            ("--micro-tokens", "value", micro_tokens),
            ("--learning-rate", "value", learning_rate),
            ("--schedule", "value", schedule),
            ("--warmup", "value", warmup),
            ("--weight-decay", "value", weight_decay),
            ("--max-norm", "value", max_norm),
            ("--epochs", "value", epochs),
            ("--max-steps", "value", max_steps),
            ("--max-minutes", "value", max_minutes),
            ("--checkpointing", "switch", checkpointing),
            ("--validate-every", "value", validate_every),
            ("--patience", "value", patience),
            ("--save-every", "value", save_every),
            ("--save-minutes", "value", save_minutes),
            ("--seed", "value", seed),
            ("--teacher", "value", teacher),
            ("--temperature", "value", temperature),
            ("--mix", "value", mix),
            ("--top-logits", "value", top_logits),
            ("--match-hidden", "value", match_hidden),
            ("--work", "value", work),
            ("--keep-work", "switch", keep_work),
            ("--memory", "value", memory),
            ("--out", "value", out),
            ("--format", "joined", format),
            ("--save-dtype", "value", save_dtype),
            ("--gguf-type", "value", gguf_type),
            ("--force", "switch", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def merge(
    model: Value,
    *,
    config: Value | bool | None = None,
    adapter: Value | bool | None = None,
    out: Value | bool | None = None,
    format: Value | Sequence[Value] | None = None,
    save_dtype: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
    force: bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Merge a LoRA adapter, as PEFT has it, into its model.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        adapter: Folder with adapter_config.json and adapter_model.safetensors
        out: Folder to write
        format: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both [default:
        hf]
        save_dtype: Type of the safetensors weights: keep (as the model has them, f16 where they
        are quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all of them (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 where it is quantised]
        force: Replace an earlier output of this program
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "merge",
        [model],
        [
            ("--config", "value", config),
            ("--adapter", "value", adapter),
            ("--out", "value", out),
            ("--format", "joined", format),
            ("--save-dtype", "value", save_dtype),
            ("--gguf-type", "value", gguf_type),
            ("--force", "switch", force),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def export(
    model: Value,
    *,
    config: Value | bool | None = None,
    out: Value | bool | None = None,
    format: Value | Sequence[Value] | None = None,
    save_dtype: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
    force: bool | None = None,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Write a model in other formats: GGUF to Hugging Face and back, other types.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, masks, compensation, output, search, space and recover, whose keys are
        the options' names; what is typed wins
        out: Folder to write
        format: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both [default:
        hf]
        save_dtype: Type of the safetensors weights: keep (as the model has them, f16 where they
        are quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all of them (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 where it is quantised]
        force: Replace an earlier output of this program
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "export",
        [model],
        [
            ("--config", "value", config),
            ("--out", "value", out),
            ("--format", "joined", format),
            ("--save-dtype", "value", save_dtype),
            ("--gguf-type", "value", gguf_type),
            ("--force", "switch", force),
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )


def doctor(
    *,
    no_verify: bool = False,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Show what this machine and this build can do.

    Instruction sets found and used, threads, memory, precision, features of the build, and
    where files are looked for.

    Arguments:
        no_verify: Open outputs of this program though they were edited: do not hold them
        against the digests in their manifest.json
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "doctor",
        [],
        [
            ("--no-verify", "flag", no_verify),
        ],
        progress,
    )
