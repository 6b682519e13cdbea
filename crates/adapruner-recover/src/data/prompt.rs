//! Alpaca's prompts, with the exact text of alpaca-lora and LLM-Pruner.

/// The prompt of an instruction; what is to be learned follows it directly.
pub fn alpaca(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately \
             completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides \
         further context. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    )
}
