"""A function for every command of adapruner; made from its command line.

Written by `ADAPRUNER_BLESS=1 cargo test -p adapruner-cli --bin adapruner python`, checked by the same test.
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Show a model's architecture, widths, parameters and types; weights are not read.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        digest: Also compute the digest of the content, which reads the whole model
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Measure the perplexity of a model on a text, or its accuracy on tasks.

    A text is tokenised once and cut into non-overlapping windows; the mean negative
    log-likelihood over all predicted tokens is exponentiated once. Tasks are evaluated
    zero-shot with the prompts and metrics of lm-evaluation-harness.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens per window; windows do not overlap, and an incomplete last one is dropped
        [default: 128]
        limit: Measure only the first N windows
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for named sets before the hub
        batch_tokens: Tokens per batch [default: chosen by free memory]
        tasks: Tasks to evaluate: boolq, piqa, hellaswag, winogrande, arc_easy, arc_challenge,
        openbookqa, wikitext. Data come from the original files in --data-dir, otherwise from
        their copies on the hub; --limit N takes the first N questions of each
        task_file: Custom task, defined in a TOML file; repeatable
        sample: Take N random questions of each task, drawn by --seed
        seed: Seed of --sample [default: 42]
        log_samples: Write every answer to this JSONL file
        force: Replace that file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Continue a prompt, or answer it if the model has a chat template.

    The text is printed as it is generated. It ends with the model's end-of-text token, after
    --max-tokens, or at the end of the context. Without --temperature decoding is greedy.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        prompt: Prompt to answer or continue [default: read from stdin]
        prompt_file: Read the prompt from this file
        system: System message before the prompt
        raw: Continue the prompt verbatim, without the chat template
        max_tokens: Maximum tokens per answer
        samples: Number of answers
        temperature: Sampling temperature; 0 is greedy
        top_k: Sample only from the K most likely tokens
        top_p: Sample only from the most likely tokens whose probabilities sum to P
        seed: Seed of sampling
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Measure a model's prompt speed, generation speed and peak memory.

    Runs one sequence at a time with a key-value cache. With --against, the two models alternate
    in every round and ratios are computed per round; the memory of each is measured in a
    separate process.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        against: Model to compare with; ratios are MODEL's figures divided by its
        prompt_tokens: Prompt lengths in tokens [default: 128,512, if they fit the context]
        new_tokens: Tokens to generate after the first one
        rounds: Measured rounds, after one warm-up round
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    report: Value | bool | None = None,
    force: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Compare models; the first one is the baseline.

    Prints Markdown tables: sizes, perplexities and task accuracies with standard errors,
    speeds, and the percentage of the baseline that each model retains; then, for every accuracy
    and loss, the difference from the baseline, paired over the same questions or windows, with
    a 95 % interval, and what is retained above chance.

    Arguments:
        models: Hugging Face folders, GGUF files, or hub ids; the first is the baseline
        text: Text to measure perplexity on, as for eval; repeatable
        window: Tokens per window [default: 128]
        limit: Use only the first N windows of each text and the first N questions of each task
        field: Field or column that holds the text of a record [default: text]
        tasks: Tasks to evaluate, as for eval
        task_file: Custom task, defined in a TOML file; repeatable
        data_dir: Folder of named sets and task data
        batch_tokens: Tokens per batch [default: chosen by free memory]
        no_latency: Do not measure speed
        prompt_tokens: Prompt lengths in tokens [default: 128,512, if they fit the context]
        new_tokens: Tokens to generate after the first one
        rounds: Measured rounds, after one warm-up round
        out: Also write the result to this file: as JSON with --json or where its name ends in
        .json, else as Markdown
        report: Also write a self-contained HTML page: the last model beside the first, size
        against quality, all tables
        force: Replace these files if they exist
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--report", "value", report),
            ("--force", "flag", force),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--no-verify", "flag", no_verify),
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Sample token sequences from a model, as token ids.

    The file (a JSON array of arrays) serves as calibration or evaluation text if no other is
    available. Sequences start after the beginning-of-text token; end-of-text tokens are never
    drawn.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        samples: Number of sequences
        sample_tokens: Tokens per sequence
        temperature: Sampling temperature; 0 is greedy
        seed: Seed
        out: File to write
        force: Replace the file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Collect the statistics of a calibration set into a file.

    Collects Taylor terms and the activation sums of pruned columns in one forward and one
    backward pass, block by block, with the samples in groups that fit --memory; the result does
    not depend on the groups. `prune --stats FILE` then scores in milliseconds. --terms
    activations needs only a forward pass and is enough for `prune --importance wanda` and
    `flap`.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        calibration: Text to draw calibration samples from, in the forms of --text; token ids
        (*.json) are used unchanged
        samples: Number of calibration samples [default: 128, or as many as the text has; stats:
        10]
        sample_tokens: Tokens per calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column that holds the text of a calibration record [default:
        text]
        stats: Statistics file: read if it exists and matches, otherwise written
        terms: Per-sample terms: activations (only a forward pass, for wanda and flap), coarse
        (also vector sums) or full (also element and Fisher sums)
        no_batch: Leave out the whole-set terms, which param_first and param_mix need
        memory: Memory limit in GiB: samples run in groups that fit, and a run that cannot fit
        is refused [default: the machine's free memory]
        batch_tokens: Tokens per batch [default: chosen by free memory]
        data_dir: Folder to search for named sets before the hub
        force: Replace the statistics file if it exists
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    target_size: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    allocation_samples: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    target_kv_cache: Value | bool | None = None,
    kv_cache_by: Value | bool | None = None,
    target_speedup: Value | bool | None = None,
    speedup_of: Value | bool | None = None,
    budget_context: Value | bool | None = None,
    speed_calibration: Value | bool | None = None,
    calibration: Value | bool | None = None,
    samples: Value | bool | None = None,
    sample_tokens: Value | bool | None = None,
    seed: Value | bool | None = None,
    calibration_field: Value | bool | None = None,
    stats: Value | bool | None = None,
    importance: Value | bool | None = None,
    grouping: Value | bool | None = None,
    drop_layers: Value | bool | None = None,
    drop_layers_by: Value | bool | None = None,
    drop_experts: Value | bool | None = None,
    drop_experts_by: Value | bool | None = None,
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
    learn_top: Value | bool | None = None,
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
    report: Value | bool | None = None,
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Remove a share of a model's parameters and write what remains.

    Whole feed-forward channels and attention heads are scored on a calibration set, the least
    important ones are removed, and the rest is an ordinary dense model; whole layers go with
    --drop-layers, whole experts of a mixture with --drop-experts, tokens with --vocab. Which
    channels stay is then learned by gradient, unless --fast is given. Options that are not
    given are filled in with what measured best; the result says which. Perplexity is measured
    before and after, on --text or else on calibration samples that nothing was chosen by.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        fast: The best result in seconds: structured Wanda by one forward pass, without
        gradients. Without it, what is not given is what gave the best result in minutes: masks
        are learned from there
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth; with search --objectives a range, 0.1..0.5
        target_params: Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000
        [prune]
        target_size: Maximum bytes of the written model, instead of --ratio: 80MB, 1.5GiB or a
        number; of model.gguf if --format includes gguf, otherwise of all files of the folder
        [prune]
        layout: per-layer (widths differ between layers) or uniform (one width for all layers:
        an ordinary model of its architecture) [default: per-layer]
        protect: Do not cut the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, if the others are enough to reach the ratio]
        attention_share: Share of the removed parameters that comes from attention, 0 to 1, or
        "free" to cut heads and channels by the same ratio [default: 0]
        multiple_of: Round feed-forward widths to multiples of N: 32 for quantised GGUF rows,
        256 for K-quants [default: 1; prune: what a quantised --gguf-type needs]
        kv_mode: Attention units to remove: groups (whole key-value groups) or query-heads (one
        query head of every group) [default: groups]
        drop_attention: Remove the whole attention sublayer of these layers
        allocation: How to spread the cut over layers: local (the same ratio in every layer),
        curve:linear=X,quadratic=Y (ratios follow a curve over depth), global (one ranking over
        all layers) or global:NORMALISATION (none, mean, max, sum, rank, or standard, as in
        FLAP); prune also: measured (step by step, the part with the smallest loss increase on
        calibration samples per parameter: channels of a layer, its attention, or the whole
        layer) [default: local]
        allocation_samples: Most calibration samples that --allocation measured measures on: the
        fewer, the more it fits them alone [default: 32]
        sensitivity: Shares sensitive layers less: cut each layer alone, measure the loss on
        calibration samples, and cut in proportion to the loss increase to the power of -P [P: 1
        if no number is given]
        target_kv_cache: Share of the dense model's key-value cache that may stay: 0.5, or 50%,
        halves it. What goes for it counts towards --ratio; without one nothing else goes
        kv_cache_by: What leaves the cache: loss (whole attention sublayers, each time the one
        whose removal costs least loss on calibration samples; of the last one only the
        key-value groups that must go) or score (key-value groups by their scores, at least one
        of each layer stays) [default: loss; score where all layers stay alike]
        target_speedup: How many times as fast as the dense model on this machine, instead of
        --ratio: 1.3. A cost model is calibrated by timing slimmer shapes of the model; the
        smallest cut that it predicts to be fast enough is taken, and timed beside the dense
        model
        speedup_of: The pass whose speed counts: decode (a generated token) or prompt (until the
        first new token) [default: decode]
        budget_context: Tokens of context that a budget is counted at: of the prompt, or before
        the generated token [default: 512, or what fits]; of the key-value cache, whose layers
        with a window hold no more than that [default: the model's context]
        speed_calibration: File of the cost model's calibration: read if it exists, otherwise
        written
        calibration: Text to draw calibration samples from, in the forms of --text; token ids
        (*.json) are used unchanged
        samples: Number of calibration samples [default: 128, or as many as the text has; stats:
        10]
        sample_tokens: Tokens per calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column that holds the text of a calibration record [default:
        text]
        stats: Statistics file: read if it exists and matches, otherwise written
        importance: Importance measure [default: wanda]. With weights w, gradient g_s of sample
        s, ḡ and F̄ the means over samples of g_s and g_s², Σ over a row or column: LLM-Pruner's
        param_first Σ|w·ḡ|, vectorize |Σ w·ḡ|, param_second Σ w²·F̄ and param_mix Σ|w·ḡ −
        ½·w²·F̄|; sample_first, the mean over samples of Σ|w·g_s|; from a forward pass alone,
        over the columns of the output and down projections with input x: wanda Σ|w|·‖x‖ and
        flap Σ w²·Var(x); the controls magnitude_l1, magnitude_l2 and random; or
        adapruner:alpha1=0.5,beta_coarse=1,beta_fine=1,normalisation=mean, the blend alpha1·C +
        (1 − alpha1)·F of C = |Σ w·ḡ − beta_coarse·Σ ½·w²·F̄| and F = mean over samples of
        Σ|w·g_s| + beta_fine·Σ ½·w²·F̄, each normalised within its layer. fine=set computes F
        from the mean gradient instead, Σ|w·ḡ| + beta_fine·Σ ½·w²·F̄, and fine=mixed Σ|w·ḡ −
        ½·w²·F̄|, as LLM-Pruner does for the whole calibration set. activation=0.3,metric=wanda
        (or flap) gives an activation metric a weight of 0.3 in the blend
        grouping: How to reduce the rows and columns of a unit to one score: sum, mean, max or
        prod [default: sum]
        drop_layers: Remove whole layers: the N cheapest, or the given ones (20,22 or 20-23;
        20-20 for one). They count towards --ratio; without --ratio the other layers stay
        unchanged. All formats support the result, because the remaining layers stay alike
        drop_layers_by: Metric that layers are chosen by: influence (how little a layer turns
        the hidden states, as in ShortGPT; one pass) or loss (one after the other, each time the
        layer without which the loss of calibration samples grows least; takes about as many
        passes as the model has layers) [default: influence]
        drop_experts: Remove whole experts of every layer of a mixture of experts: so many, or a
        share of them (50%, rounded down). Each layer chooses its own; the routers follow, and
        each token takes as many experts as before. They count towards --ratio; without --ratio
        the other experts stay unchanged. All formats support the result
        drop_experts_by: Metric that experts are chosen by: reap (the mean of router weight
        times size of the output over the tokens that take an expert), reap-sum (their sum),
        frequency (how many tokens take an expert), taylor (first-order change of the loss
        without it, by gradients), reconstruction (sets of experts by how much the layer's
        output changes without them, as in "Not All Experts are Equal") or random (the control)
        [default: reap-sum]
        vocab: Trim the vocabulary to the N tokens that your texts need most, or "auto" for the
        fewest that --vocab-tolerance allows. Bytes, special and added tokens and those of the
        chat template always stay, so every text can still be encoded. The tokenizer, embedding,
        head and all ids in the model's files are updated. Removed rows count towards --ratio;
        without --ratio the layers stay unchanged
        vocab_text: Text to count tokens in, in the forms of --text; repeatable. Give texts of
        all languages and kinds that the model is meant for [default: the calibration text]
        vocab_multiple_of: Pad the embedding to a multiple of N rows, with rows that belong to
        no token and never have the largest logit [default: 1]
        vocab_tolerance: Tolerance of "auto": how many more tokens, as a share, held-out text
        may need than with the whole vocabulary [default: 0.005]
        learn_masks: Learn by gradient which units stay, in this many steps: every unit has a
        score, the highest scores pass a hard mask that keeps exactly as many units as the plan,
        and gradients through it update the scores. Learning starts from the plan; held-out
        samples choose the step, and the plan itself is a candidate. 0 for none [default: 0;
        prune: 60, unless --fast is given]
        learn_units: Units to learn masks for: ffn (channels), kv-groups (groups, in layers that
        lose some), sublayers (which attention sublayers are dropped) [default: ffn]
        mask_budget: Budget of units: per-layer (every layer keeps as many units as planned) or
        free (layers exchange units within the same total) [default: per-layer]
        mask_loss: Loss: text (cross-entropy), logits (the dense model's top 64 at every
        position) or hidden (the dense model's block outputs; the dense model then runs beside
        the masked one) [default: text]
        mask_text: Text to learn masks on, as for --text [default: the calibration text]
        mask_samples: Number of samples, including the held-out ones [default: 512]
        mask_tokens: Tokens per such sample [default: 128]
        mask_held_out: Held-out samples that choose the step [default: a sixteenth, at least 8]
        mask_batch: Samples per step [default: 8]
        mask_rate: Learning rate of the first step (Adam) [default: 0.05]
        mask_rate_end: Final learning rate of the cosine schedule [default: a tenth of
        --mask-rate]
        mask_spread: Initial standard deviation of a layer's scores: the smaller, the more units
        change [default: 1]
        mask_every: Steps between measurements on the held-out samples [default: 20]
        mask_patience: Stop after N measurements without a lower loss [default: 3]
        learn_top: Learn masks for the K best trials of the study, and keep the trial whose
        masks have the lowest loss on the held-out samples [apply --study; default: 1]
        masks_state: Folder for the state, saved at every measurement; after a stop the same
        command resumes from it, with the same result
        compensate: Compensate in closed form for the removed units, as far as it lowers the
        loss on held-out samples: fit (refit the matrices that read them by least squares;
        shapes stay) or bias (add the mean of their contribution as a bias; needs few samples;
        the model gets biases, zeros on its other projections) [fit if no form is given]
        compensate_text: Text to fit on, as for --text [default: the calibration text]
        compensate_samples: Number of samples to fit on; their tokens should be many times the
        channels that a layer keeps [default: 128]
        compensate_tokens: Tokens per such sample [default: 128]
        compensate_ridge: Ridge of each fit towards the sliced weights, relative to the mean
        square of their inputs: a number, or auto for the power of ten that is best on held-out
        samples [default: auto]
        out: Folder to write
        format: Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or
        both [default: hf]
        save_dtype: Type of the safetensors weights: keep (the model's type, f16 if it is
        quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 if it is quantised]
        force: Replace an existing output of this program
        dry_run: Print the plan, write nothing
        report: Also write a self-contained HTML page: size, quality and speed before and after,
        and the widths of every layer; replaced with --force
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens per window; windows do not overlap, and an incomplete last one is dropped
        [default: 128]
        limit: Measure only the first N windows
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for named sets before the hub
        batch_tokens: Tokens per batch [default: chosen by free memory]
        allow_overlap: Measure even on text that shares passages with the calibration set
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        memory: Most memory that collecting statistics or learning masks takes, in GiB: they are
        run in parts that fit it, and what does not fit in any way is refused [default: what the
        machine has free]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--target-size", "value", target_size),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--allocation-samples", "value", allocation_samples),
            ("--sensitivity", "value", sensitivity),
            ("--target-kv-cache", "value", target_kv_cache),
            ("--kv-cache-by", "value", kv_cache_by),
            ("--target-speedup", "value", target_speedup),
            ("--speedup-of", "value", speedup_of),
            ("--budget-context", "value", budget_context),
            ("--speed-calibration", "value", speed_calibration),
            ("--calibration", "value", calibration),
            ("--samples", "value", samples),
            ("--sample-tokens", "value", sample_tokens),
            ("--seed", "value", seed),
            ("--calibration-field", "value", calibration_field),
            ("--stats", "value", stats),
            ("--importance", "value", importance),
            ("--grouping", "value", grouping),
            ("--drop-layers", "value", drop_layers),
            ("--drop-layers-by", "value", drop_layers_by),
            ("--drop-experts", "value", drop_experts),
            ("--drop-experts-by", "value", drop_experts_by),
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
            ("--learn-top", "value", learn_top),
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
            ("--report", "value", report),
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
            ("--without-instructions", "joined", without_instructions),
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
    objectives: Value | Sequence[Value] | None = None,
    format: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
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
    target_size: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    allocation_samples: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    speedup_of: Value | bool | None = None,
    budget_context: Value | bool | None = None,
    speed_calibration: Value | bool | None = None,
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Find the calibration samples, metric and cut with the lowest loss.

    Statistics of the whole pool (--samples, here 128 by default) are collected once. Each trial
    scores, plans, slices and measures one configuration on the search-evaluation text (--limit
    windows spread over --text, 32 by default), chunk by chunk, and stops early if it is
    hopeless. An existing study is resumed; several commands may work on it at once. `apply
    --study` prunes by the best trial. With --objectives the share to remove is searched too,
    and one search serves every size: `apply --study STUDY --target-params N` takes the nearest
    point.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        study: Folder of the study; an existing study is resumed
        storage: Keep the trials in Redis, redis://HOST:PORT, to share them between machines;
        each machine has its own --study folder. Start the server with --appendonly yes, and it
        may be restarted at any time; with --appendfsync always it may also be killed
        space: Search space: full (samples, metric and where to cut the model) or paper (samples
        and metric) [default: full]
        objectives: Several objectives to minimise, loss,params, loss,bytes, loss,latency or
        more of them (latency as a cost model predicts it that is calibrated once for the
        study): the share to remove is searched too (--ratio 0.1..0.5), and the result is a
        front, one model for every size
        format: Format whose bytes are an objective: hf or gguf [default: hf; gguf with
        --gguf-type]
        gguf_type: GGUF type whose bytes are an objective, as in export
        trials: Number of trials: complete, stopped early or infeasible, including those of
        earlier runs and of other workers [default: 150]
        max_minutes: Start no new trial after this many minutes
        patience: Stop after this many trials without improvement
        early_stop: Early stopping of trials: wilcoxon (worse than the best trial, chunk by
        chunk), median, halving or off [default: wilcoxon]
        chunk: Windows per chunk of the search-evaluation text [default: 1]
        test: Test text for the best trial, never seen by the search; repeatable
        test_windows: Windows of each test text, spread evenly [default: 128]
        workers: Number of local worker processes [default: 1]
        memory: Memory limit in GiB: the pool's samples run in groups that fit, and a search
        that needs more is refused before it begins [default: the machine's free memory]
        anew: If the folder holds a different search, move that to STUDY.1 (or the next free
        number) and begin a new one, reusing its statistics if they match
        allow_overlap: Accept texts that share passages with each other
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth; with search --objectives a range, 0.1..0.5
        target_params: Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000
        [prune]
        target_size: Maximum bytes of the written model, instead of --ratio: 80MB, 1.5GiB or a
        number; of model.gguf if --format includes gguf, otherwise of all files of the folder
        [prune]
        layout: per-layer (widths differ between layers) or uniform (one width for all layers:
        an ordinary model of its architecture) [default: per-layer]
        protect: Do not cut the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, if the others are enough to reach the ratio]
        attention_share: Share of the removed parameters that comes from attention, 0 to 1, or
        "free" to cut heads and channels by the same ratio [default: 0]
        multiple_of: Round feed-forward widths to multiples of N: 32 for quantised GGUF rows,
        256 for K-quants [default: 1; prune: what a quantised --gguf-type needs]
        kv_mode: Attention units to remove: groups (whole key-value groups) or query-heads (one
        query head of every group) [default: groups]
        drop_attention: Remove the whole attention sublayer of these layers
        allocation: How to spread the cut over layers: local (the same ratio in every layer),
        curve:linear=X,quadratic=Y (ratios follow a curve over depth), global (one ranking over
        all layers) or global:NORMALISATION (none, mean, max, sum, rank, or standard, as in
        FLAP); prune also: measured (step by step, the part with the smallest loss increase on
        calibration samples per parameter: channels of a layer, its attention, or the whole
        layer) [default: local]
        allocation_samples: Most calibration samples that --allocation measured measures on: the
        fewer, the more it fits them alone [default: 32]
        sensitivity: Shares sensitive layers less: cut each layer alone, measure the loss on
        calibration samples, and cut in proportion to the loss increase to the power of -P [P: 1
        if no number is given]
        speedup_of: The pass whose speed counts: decode (a generated token) or prompt (until the
        first new token) [default: decode]
        budget_context: Tokens of context that a budget is counted at: of the prompt, or before
        the generated token [default: 512, or what fits]; of the key-value cache, whose layers
        with a window hold no more than that [default: the model's context]
        speed_calibration: File of the cost model's calibration: read if it exists, otherwise
        written
        calibration: Text to draw calibration samples from, in the forms of --text; token ids
        (*.json) are used unchanged
        samples: Number of calibration samples [default: 128, or as many as the text has; stats:
        10]
        sample_tokens: Tokens per calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column that holds the text of a calibration record [default:
        text]
        stats: Statistics file: read if it exists and matches, otherwise written
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens per window; windows do not overlap, and an incomplete last one is dropped
        [default: 128]
        limit: Measure only the first N windows
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for named sets before the hub
        batch_tokens: Tokens per batch [default: chosen by free memory]
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        search: Dimensions to search: joint (all), data (only the samples), metric (all but the
        samples) or baseline (random samples, LLM-Pruner's setting)
        sampler: Sampler of configurations: tpe or random
        sampler_seed: Seed of the sampler [default: --seed]
        show_space: Print the search space with the reasons for its ranges, and search nothing
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--objectives", "joined", objectives),
            ("--format", "value", format),
            ("--gguf-type", "value", gguf_type),
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
            ("--target-size", "value", target_size),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--allocation-samples", "value", allocation_samples),
            ("--sensitivity", "value", sensitivity),
            ("--speedup-of", "value", speedup_of),
            ("--budget-context", "value", budget_context),
            ("--speed-calibration", "value", speed_calibration),
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
            ("--without-instructions", "joined", without_instructions),
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
    objectives: Value | Sequence[Value] | None = None,
    format: Value | bool | None = None,
    gguf_type: Value | bool | None = None,
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
    target_size: Value | bool | None = None,
    layout: Value | bool | None = None,
    protect: Value | bool | None = None,
    attention_share: Value | bool | None = None,
    multiple_of: Value | bool | None = None,
    kv_mode: Value | bool | None = None,
    drop_attention: Value | Sequence[Value] | None = None,
    allocation: Value | bool | None = None,
    allocation_samples: Value | bool | None = None,
    sensitivity: Value | bool | None = None,
    speedup_of: Value | bool | None = None,
    budget_context: Value | bool | None = None,
    speed_calibration: Value | bool | None = None,
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Compare search strategies with equal budgets and several seeds.

    All strategies share one bank of statistics. The table gives the median and the range of the
    best losses over seeds, perplexities on test texts, and for each pair whether the ranges
    show a difference (at least three seeds each, no overlap) and after how many trials one
    median reached the other's final median. Finished searches are not repeated.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        study: Folder of the study; an existing study is resumed
        storage: Keep the trials in Redis, redis://HOST:PORT, to share them between machines;
        each machine has its own --study folder. Start the server with --appendonly yes, and it
        may be restarted at any time; with --appendfsync always it may also be killed
        space: Search space: full (samples, metric and where to cut the model) or paper (samples
        and metric) [default: full]
        objectives: Several objectives to minimise, loss,params, loss,bytes, loss,latency or
        more of them (latency as a cost model predicts it that is calibrated once for the
        study): the share to remove is searched too (--ratio 0.1..0.5), and the result is a
        front, one model for every size
        format: Format whose bytes are an objective: hf or gguf [default: hf; gguf with
        --gguf-type]
        gguf_type: GGUF type whose bytes are an objective, as in export
        trials: Number of trials: complete, stopped early or infeasible, including those of
        earlier runs and of other workers [default: 150]
        max_minutes: Start no new trial after this many minutes
        patience: Stop after this many trials without improvement
        early_stop: Early stopping of trials: wilcoxon (worse than the best trial, chunk by
        chunk), median, halving or off [default: wilcoxon]
        chunk: Windows per chunk of the search-evaluation text [default: 1]
        test: Test text for the best trial, never seen by the search; repeatable
        test_windows: Windows of each test text, spread evenly [default: 128]
        workers: Number of local worker processes [default: 1]
        memory: Memory limit in GiB: the pool's samples run in groups that fit, and a search
        that needs more is refused before it begins [default: the machine's free memory]
        anew: If the folder holds a different search, move that to STUDY.1 (or the next free
        number) and begin a new one, reusing its statistics if they match
        allow_overlap: Accept texts that share passages with each other
        ratio: Share of all parameters to remove, embedding included: 0.2, or 20%, removes a
        fifth; with search --objectives a range, 0.1..0.5
        target_params: Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000
        [prune]
        target_size: Maximum bytes of the written model, instead of --ratio: 80MB, 1.5GiB or a
        number; of model.gguf if --format includes gguf, otherwise of all files of the folder
        [prune]
        layout: per-layer (widths differ between layers) or uniform (one width for all layers:
        an ordinary model of its architecture) [default: per-layer]
        protect: Do not cut the first A and last B layers [default: 0,0; prune: an eighth and a
        sixteenth of the layers, if the others are enough to reach the ratio]
        attention_share: Share of the removed parameters that comes from attention, 0 to 1, or
        "free" to cut heads and channels by the same ratio [default: 0]
        multiple_of: Round feed-forward widths to multiples of N: 32 for quantised GGUF rows,
        256 for K-quants [default: 1; prune: what a quantised --gguf-type needs]
        kv_mode: Attention units to remove: groups (whole key-value groups) or query-heads (one
        query head of every group) [default: groups]
        drop_attention: Remove the whole attention sublayer of these layers
        allocation: How to spread the cut over layers: local (the same ratio in every layer),
        curve:linear=X,quadratic=Y (ratios follow a curve over depth), global (one ranking over
        all layers) or global:NORMALISATION (none, mean, max, sum, rank, or standard, as in
        FLAP); prune also: measured (step by step, the part with the smallest loss increase on
        calibration samples per parameter: channels of a layer, its attention, or the whole
        layer) [default: local]
        allocation_samples: Most calibration samples that --allocation measured measures on: the
        fewer, the more it fits them alone [default: 32]
        sensitivity: Shares sensitive layers less: cut each layer alone, measure the loss on
        calibration samples, and cut in proportion to the loss increase to the power of -P [P: 1
        if no number is given]
        speedup_of: The pass whose speed counts: decode (a generated token) or prompt (until the
        first new token) [default: decode]
        budget_context: Tokens of context that a budget is counted at: of the prompt, or before
        the generated token [default: 512, or what fits]; of the key-value cache, whose layers
        with a window hold no more than that [default: the model's context]
        speed_calibration: File of the cost model's calibration: read if it exists, otherwise
        written
        calibration: Text to draw calibration samples from, in the forms of --text; token ids
        (*.json) are used unchanged
        samples: Number of calibration samples [default: 128, or as many as the text has; stats:
        10]
        sample_tokens: Tokens per calibration sample [default: 64; prune: 128]
        seed: Seed of every random choice [default: 42]
        calibration_field: Field or column that holds the text of a calibration record [default:
        text]
        stats: Statistics file: read if it exists and matches, otherwise written
        text: Text, JSONL, CSV, TSV, parquet, WikiText (*.raw), PTB (ptb.*.txt) or token ids
        (*.json), or a named set: wikitext2, ptb, c4 (":test" and ":validation" choose the
        split)
        window: Tokens per window; windows do not overlap, and an incomplete last one is dropped
        [default: 128]
        limit: Measure only the first N windows
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for named sets before the hub
        batch_tokens: Tokens per batch [default: chosen by free memory]
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        arms: Strategies: joint (TPE over everything), random, data, metric, baseline (median of
        ten draws); ARM@TRIALS and ARM@TRIALSxSEEDS override the budget of one
        seeds: Number of seeds for each strategy
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--objectives", "joined", objectives),
            ("--format", "value", format),
            ("--gguf-type", "value", gguf_type),
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
            ("--target-size", "value", target_size),
            ("--layout", "value", layout),
            ("--protect", "value", protect),
            ("--attention-share", "value", attention_share),
            ("--multiple-of", "value", multiple_of),
            ("--kv-mode", "value", kv_mode),
            ("--drop-attention", "joined", drop_attention),
            ("--allocation", "value", allocation),
            ("--allocation-samples", "value", allocation_samples),
            ("--sensitivity", "value", sensitivity),
            ("--speedup-of", "value", speedup_of),
            ("--budget-context", "value", budget_context),
            ("--speed-calibration", "value", speed_calibration),
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Correlate perplexity with task accuracy over a study's trials.

    Chooses trials over the whole range of a study's losses, always including the best one and
    the first (the hand setting), and prunes them to each of --ratios. Measures every model on
    the study's search-evaluation text (--text), on test texts and on tasks. Correlates every
    loss with every accuracy, over all models and within each ratio of at least five models:
    Spearman and Pearson with 95 % intervals and a verdict. Models of one trial at several
    ratios depend on each other, so they are resampled together and count as one; with fewer
    than ten trials there is no verdict, only the p of a permutation test. A loss is a poor
    guide if the lower bound of |Spearman| is below 0.5. If it separates ratios but not models
    of one ratio, or if accuracies differ by no more than their standard errors, the command
    says that instead. The dense model is measured too, but is not part of the correlations.

    Results are saved in the study's folder as soon as a model is measured, so the same command
    resumes and measures nothing twice. `report` shows them.

    Arguments:
        study: Folder of the study
        model: The study's model [default: its path during the search]
        study_name: Name of the study in the folder [default: the one with the best trial]
        storage: Redis URL of the trials, as given to search
        trials: Number of trials to choose
        ratios: Ratios to prune each of them to, which gives trials × ratios models [default:
        the study's own]
        text: The study's search-evaluation text, as given to search
        test: Test text, in windows of the same length; repeatable
        test_windows: Windows of each test text, spread evenly
        allow_overlap: Accept test texts that share passages with the study's pool or --text
        tasks: Tasks to evaluate, as for eval
        task_file: Custom task, defined in a TOML file; repeatable
        limit: Take only the first N questions of each task [default: all]
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for task data and named sets
        batch_tokens: Tokens per batch of tasks [default: chosen by free memory]
        resamples: Number of resamples for intervals, and of random permutations
        seed: Seed of resamples and permutations
        dry_run: Only list the models to measure and the cost
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
        ],
        progress,
    )


def trials(
    study: Value,
    *,
    storage: Value | bool | None = None,
    study_name: Value | bool | None = None,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """List the trials of a study: state, loss, seconds and parameters of each.

    Prints a table from the best trial to the worst; with --json, rows for a data frame, by
    number.

    Arguments:
        study: Folder of the study
        storage: Redis URL of the trials, as given to search
        study_name: Name of the study, if the folder holds several [default: the one with the
        best trial]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
        ],
        progress,
    )


def report(
    study: Value | None = None,
    *,
    storage: Value | bool | None = None,
    recovery: Value | bool | None = None,
    models: Value | bool | None = None,
    out: Value | bool | None = None,
    force: bool = False,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Make an HTML page of a study or of a comparison of models.

    The page is one self-contained file. Of a study: best loss over trials and seconds,
    coefficients against loss, importances of the parameters, chosen samples, widths of every
    layer, warnings, costs, and the command that reproduces it; with --recovery, losses and
    learning rate of the training. With --models, it opens with the last model beside the first
    and has size against quality, the models side by side, standard errors and paired
    differences; that alone where no study is named. An --out that ends in .svg is the picture
    of size against quality alone.

    Arguments:
        study: Folder of the study
        storage: Redis URL of the trials, as given to search
        recovery: Output folder of `recover`, to show its training too
        models: Comparison of the resulting models, as written by compare-models --out FILE.json
        out: File to write
        force: Replace the file if it exists
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Search, prune, recover, evaluate and report, from one configuration file.

    Runs one command of this program per stage, with the same file. Finished stages are not
    repeated, and interrupted ones resume. --init writes a configuration for a model, with every
    line explained.

    Arguments:
        config: Configuration file
        init: Write a configuration for this model and run nothing
        force: Replace the configuration if it exists
        dry_run: Print the commands, which of their stages are done, and why others run again;
        run nothing
        allow_overlap: Accept training data, calibration text or compensation text that shares
        passages with a test text
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    target_params: Value | bool | None = None,
    target_size: Value | bool | None = None,
    target_kv_cache: Value | bool | None = None,
    kv_cache_by: Value | bool | None = None,
    target_speedup: Value | bool | None = None,
    speedup_of: Value | bool | None = None,
    budget_context: Value | bool | None = None,
    speed_calibration: Value | bool | None = None,
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
    learn_top: Value | bool | None = None,
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
    dry_run: bool = False,
    device: Value | bool | None = None,
    dtype: Value | bool | None = None,
    matmul_precision: Value | bool | None = None,
    threads: Value | bool | None = None,
    memory: Value | bool | None = None,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Apply a plan, or the best trial of a study.

    A plan is a manifest.json of `prune`, or the `full_plan` of `prune --dry-run --json`, and
    fits only the model it was made for. A study may be of another model of the family:
    statistics of the same samples are then collected on this one, and settings that could not
    be transferred are reported. --ratio applies a study's trial at another ratio than the
    search; of a study of several objectives (search --objectives) it takes the nearest point of
    the front, as do --target-params, --target-size and --target-speedup. --target-kv-cache cuts
    the attention of a trial as far as needed, or takes a point that fits. --learn-masks learns
    by gradient which units stay, within the widths of the plan. --compensate refits the
    remaining weights on a text.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        plan: Plan, or a manifest that contains one
        study: Folder of a study
        study_name: Name of the study in the folder [default: the one with the best trial]
        storage: Redis URL of the trials, as given to search
        trial: Number of the trial [default: the best one]
        ratio: Share of all parameters to remove [default: the study's]; of several objectives:
        take the nearest point of the front that removes at least so much
        target_params: Number of parameters to keep, instead of --ratio: 100M, 1.2B or 90000000;
        of several objectives: take the nearest point of the front that has no more
        target_size: Maximum bytes of the written model, 80MB, 1.5GiB or a number, for a study
        of several objectives: take the nearest point of the front that fits
        target_kv_cache: Share of the dense model's key-value cache that may stay: 0.5, or 50%,
        halves it. What goes for it counts towards --ratio; without one nothing else goes
        kv_cache_by: What leaves the cache: loss (whole attention sublayers, each time the one
        whose removal costs least loss on calibration samples; of the last one only the
        key-value groups that must go) or score (key-value groups by their scores, at least one
        of each layer stays) [default: loss; score where all layers stay alike]
        target_speedup: How many times as fast as the dense model on this machine, instead of
        --ratio: 1.3. A cost model is calibrated by timing slimmer shapes of the model; the
        smallest cut that it predicts to be fast enough is taken, and timed beside the dense
        model
        speedup_of: The pass whose speed counts: decode (a generated token) or prompt (until the
        first new token) [default: decode]
        budget_context: Tokens of context that a budget is counted at: of the prompt, or before
        the generated token [default: 512, or what fits]; of the key-value cache, whose layers
        with a window hold no more than that [default: the model's context]
        speed_calibration: File of the cost model's calibration: read if it exists, otherwise
        written
        learn_masks: Learn by gradient which units stay, in this many steps: every unit has a
        score, the highest scores pass a hard mask that keeps exactly as many units as the plan,
        and gradients through it update the scores. Learning starts from the plan; held-out
        samples choose the step, and the plan itself is a candidate. 0 for none [default: 0;
        prune: 60, unless --fast is given]
        learn_units: Units to learn masks for: ffn (channels), kv-groups (groups, in layers that
        lose some), sublayers (which attention sublayers are dropped) [default: ffn]
        mask_budget: Budget of units: per-layer (every layer keeps as many units as planned) or
        free (layers exchange units within the same total) [default: per-layer]
        mask_loss: Loss: text (cross-entropy), logits (the dense model's top 64 at every
        position) or hidden (the dense model's block outputs; the dense model then runs beside
        the masked one) [default: text]
        mask_text: Text to learn masks on, as for --text [default: the calibration text]
        mask_samples: Number of samples, including the held-out ones [default: 512]
        mask_tokens: Tokens per such sample [default: 128]
        mask_held_out: Held-out samples that choose the step [default: a sixteenth, at least 8]
        mask_batch: Samples per step [default: 8]
        mask_rate: Learning rate of the first step (Adam) [default: 0.05]
        mask_rate_end: Final learning rate of the cosine schedule [default: a tenth of
        --mask-rate]
        mask_spread: Initial standard deviation of a layer's scores: the smaller, the more units
        change [default: 1]
        mask_every: Steps between measurements on the held-out samples [default: 20]
        mask_patience: Stop after N measurements without a lower loss [default: 3]
        learn_top: Learn masks for the K best trials of the study, and keep the trial whose
        masks have the lowest loss on the held-out samples [apply --study; default: 1]
        masks_state: Folder for the state, saved at every measurement; after a stop the same
        command resumes from it, with the same result
        compensate: Compensate in closed form for the removed units, as far as it lowers the
        loss on held-out samples: fit (refit the matrices that read them by least squares;
        shapes stay) or bias (add the mean of their contribution as a bias; needs few samples;
        the model gets biases, zeros on its other projections) [fit if no form is given]
        compensate_text: Text to fit on, as for --text [default: the calibration text]
        compensate_samples: Number of samples to fit on; their tokens should be many times the
        channels that a layer keeps [default: 128]
        compensate_tokens: Tokens per such sample [default: 128]
        compensate_ridge: Ridge of each fit towards the sliced weights, relative to the mean
        square of their inputs: a number, or auto for the power of ten that is best on held-out
        samples [default: auto]
        seed: Seed of the samples for masks and compensation [default: 42]
        data_dir: Folder to search for named sets before the hub
        test: Test text of the model: texts for masks and compensation that share passages with
        it are refused; repeatable
        allow_overlap: Accept texts for masks and compensation that share passages with a test
        text
        out: Folder to write
        format: Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or
        both [default: hf]
        save_dtype: Type of the safetensors weights: keep (the model's type, f16 if it is
        quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 if it is quantised]
        force: Replace an existing output of this program
        dry_run: Print the plan and the size, write nothing: no masks are learned and nothing is
        compensated
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        memory: Memory limit in GiB for masks and compensation; a run that needs more is refused
        [default: the machine's free memory]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--target-params", "value", target_params),
            ("--target-size", "value", target_size),
            ("--target-kv-cache", "value", target_kv_cache),
            ("--kv-cache-by", "value", kv_cache_by),
            ("--target-speedup", "value", target_speedup),
            ("--speedup-of", "value", speedup_of),
            ("--budget-context", "value", budget_context),
            ("--speed-calibration", "value", speed_calibration),
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
            ("--learn-top", "value", learn_top),
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
            ("--dry-run", "flag", dry_run),
            ("--device", "value", device),
            ("--dtype", "value", dtype),
            ("--matmul-precision", "value", matmul_precision),
            ("--threads", "value", threads),
            ("--memory", "value", memory),
            ("--no-verify", "flag", no_verify),
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Fine-tune a pruned model on instructions, conversations or text.

    With --method lora, --out gets the adapter in PEFT's format (adapter/), and with --format
    also the merged model; with --method full, the model. The same command resumes a stopped or
    killed training from its last saved state.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        data: Training data: JSON or JSONL records with "instruction", "input" and "output"
        (Alpaca), with "messages" (conversations, rendered by the model's chat template with 26
        July 2024 as the current date) or with a text field; or a text or named set, as for eval
        field: Field or column that holds the text of a record [default: text]
        data_dir: Folder to search for named sets before the hub
        test: Test text of the model: data that share passages with it are refused; repeatable
        allow_overlap: Accept data that share passages with a test text
        cutoff: Maximum tokens per sequence; longer ones are truncated and counted in the output
        [default: 256]
        train_on_prompt: Compute the loss on prompts too
        validation: Validation set: a share of the records (0.05) or a number (200) [default:
        0.05]
        method: lora (low-rank updates beside frozen weights) or full (all parameters) [default:
        lora]
        rank: LoRA rank R [default: 8]
        alpha: LoRA alpha: updates are scaled by ALPHA / R [default: 16]
        dropout: LoRA dropout [default: 0.05]
        targets: Projections with an adapter: q, k, v, o, gate, up, down [default: all; in
        mixtures of experts those of attention]
        rslora: Scale updates by ALPHA / √R (rsLoRA)
        batch_size: Sequences per step [default: 64]
        batch_tokens: Tokens per step, instead of --batch-size
        micro_tokens: Tokens per micro-batch; a step sums the gradients of its micro-batches
        [default: 1024]
        learning_rate: Peak learning rate [default: 1e-4; 1e-5 for full]
        schedule: Learning-rate decay: linear, cosine or constant [default: linear]
        warmup: Warm-up steps from a rate of 0, at most half of the training [default: 10]
        weight_decay: Weight decay (AdamW) [default: 0]
        max_norm: Maximum gradient norm; larger gradients are scaled down [default: 1]
        epochs: Epochs [default: 2, or as many as --max-steps needs]
        max_steps: Maximum number of steps
        max_minutes: Maximum minutes, including those before a stop
        checkpointing: Gradient checkpointing: recompute each block in the backward pass;
        slower, less memory
        validate_every: Steps between validations [default: 50]
        patience: Stop after N validations without a lower loss; the best parameters are kept in
        any case
        save_every: Steps between saved states [default: 50]
        save_minutes: Maximum minutes between saved states [default: 5]
        seed: Seed of split, order, dropout and initial adapter [default: 42]
        teacher: Teacher for distillation: the model before pruning
        temperature: Distillation temperature [default: 1]
        mix: Weight of the teacher in the loss [default: 0.5]
        top_logits: Number of the teacher's top logits used at each position [default: 16]
        match_hidden: Weight of matching the outputs of all blocks to the teacher's: the mean
        over blocks and tokens of |h - t|²/|t|². The teacher then runs in every step
        work: Folder for the state, log and cached teacher logits; a stopped training resumes
        from it [default: --out with .work appended]
        keep_work: Keep that folder after the output is written
        memory: Memory limit in GiB: a training that needs more is refused before it begins
        [default: the machine's free memory]
        out: Folder to write
        format: Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or
        both [default: hf]
        save_dtype: Type of the safetensors weights: keep (the model's type, f16 if it is
        quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 if it is quantised]
        force: Replace an existing output of this program
        device: Where the model runs: cpu, cuda or metal [default: cpu]
        dtype: Weight type at run time: auto (on the CPU bf16 where all matrices are stored so,
        f32 otherwise, which loses nothing; bf16 elsewhere), f32 or bf16 [default: auto]
        matmul_precision: Precision of matrix multiplication, in PyTorch's words: highest (with
        the error of f32), high (about 16 bits of every number: more precise than TF32) or
        medium (bf16 where that is faster); `adapruner doctor` says what the processor makes
        them of [default: highest; search and compare: high, or that of the study]
        threads: Number of threads [default: one per core]
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Merge a LoRA adapter in PEFT's format into its model.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        adapter: Folder with adapter_config.json and adapter_model.safetensors
        out: Folder to write
        format: Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or
        both [default: hf]
        save_dtype: Type of the safetensors weights: keep (the model's type, f16 if it is
        quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 if it is quantised]
        force: Replace an existing output of this program
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--without-instructions", "joined", without_instructions),
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
    dry_run: bool = False,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Write a model in other formats: GGUF to Hugging Face and back, other types.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        config: Settings from a TOML file with the tables run, eval, tasks, recipe, calibration,
        importance, plan, budget, speed, depth, experts, vocabulary, masks, compensation,
        output, search, space and recover, whose keys are the options' names; the command line
        takes precedence
        out: Folder to write
        format: Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or
        both [default: hf]
        save_dtype: Type of the safetensors weights: keep (the model's type, f16 if it is
        quantised), f32, f16 or bf16 [default: keep]
        gguf_type: Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a
        K-quant for all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l,
        …) [default: the model's float type, f16 if it is quantised]
        force: Replace an existing output of this program
        dry_run: Print the size, write nothing
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
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
            ("--dry-run", "flag", dry_run),
            ("--no-verify", "flag", no_verify),
            ("--without-instructions", "joined", without_instructions),
        ],
        progress,
    )


def doctor(
    *,
    no_verify: bool = False,
    without_instructions: Value | Sequence[Value] | None = None,
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Show what this machine and this build can do.

    Lists instruction sets found and used (in brackets what --without-instructions calls them),
    what products are made of in each precision, threads, memory, features of the build, and the
    folders that are searched for files.

    Arguments:
        no_verify: Do not check outputs of this program against the digests in their
        manifest.json, so that edited ones can be opened
        without_instructions: Sets of instructions that matrix products go without, with those
        that build on them, for comparisons or where a processor's are faulty; `adapruner
        doctor` lists them
        progress: called as progress(stage, done, all, note); True shows bars, False none,
        None bars where somebody watches
    """
    return run_command(
        "doctor",
        [],
        [
            ("--no-verify", "flag", no_verify),
            ("--without-instructions", "joined", without_instructions),
        ],
        progress,
    )
