//! One file for each architecture.

mod falcon;
mod falcon_two_norms;
mod gemma2;
mod gemma3;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod olmoe;
mod opt;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use crate::{config::Architecture, family::Family};

impl Architecture {
    /// All of them, in the order in which they are listed for users.
    pub const ALL: [Self; 17] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
        Self::SmolLm3,
        Self::Olmo2,
        Self::Granite,
        Self::Phi3,
        Self::Opt,
        Self::GptNeoX,
        Self::Falcon,
        Self::FalconTwoNorms,
        Self::Qwen3Moe,
        Self::Olmoe,
        Self::Mixtral,
    ];

    /// What it declares.
    pub fn family(self) -> &'static Family {
        match self {
            Self::Llama => &llama::FAMILY,
            Self::Mistral => &mistral::FAMILY,
            Self::Qwen2 => &qwen2::FAMILY,
            Self::Qwen3 => &qwen3::FAMILY,
            Self::Gemma2 => &gemma2::FAMILY,
            Self::Gemma3 => &gemma3::FAMILY,
            Self::SmolLm3 => &smollm3::FAMILY,
            Self::Olmo2 => &olmo2::FAMILY,
            Self::Granite => &granite::FAMILY,
            Self::Phi3 => &phi3::FAMILY,
            Self::Opt => &opt::FAMILY,
            Self::GptNeoX => &gpt_neox::FAMILY,
            Self::Falcon => &falcon::FAMILY,
            Self::FalconTwoNorms => &falcon_two_norms::FAMILY,
            Self::Qwen3Moe => &qwen3_moe::FAMILY,
            Self::Olmoe => &olmoe::FAMILY,
            Self::Mixtral => &mixtral::FAMILY,
        }
    }
}
