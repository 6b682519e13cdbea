//! Arguments of the output, also a table of the configuration file.

use std::path::PathBuf;

use adapruner::outputs::{Format, OutputSettings, Stored};
use adapruner_checkpoint::{atomic::Files, gguf::GgufType, hf::StoreType};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{combine::combine, typed::Named};

/// What is written.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub out: Option<PathBuf>,
    /// Formats to write: hf (config.json, safetensors, tokenizer), gguf (model.gguf) or both
    /// [default: hf]
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    pub format: Option<Vec<Named<Format>>>,
    /// Type of the safetensors weights: keep (the model's type, f16 if it is quantised), f32,
    /// f16 or bf16 [default: keep]
    #[arg(long, value_name = "TYPE")]
    pub save_dtype: Option<Named<StoreType>>,
    /// Type of the GGUF weights: f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, a K-quant for
    /// all matrices (q4_k) or one of llama.cpp's mixtures (q4_k_m, q5_k_m, q3_k_l, …) [default:
    /// the model's float type, f16 if it is quantised]
    #[arg(long, value_name = "TYPE")]
    pub gguf_type: Option<Named<GgufType>>,
    /// Replace an existing output of this program
    #[arg(long)]
    pub force: Option<bool>,
}

combine!(OutputArgs { out, format, save_dtype, gguf_type, force });

impl OutputArgs {
    /// What is written.
    pub fn files(&self, files: Files) -> Files {
        self.out
            .iter()
            .fold(files, |files, out| files.folder("--out", out, self.force.unwrap_or(false)))
    }

    /// Formats and types, defaults filled in.
    pub fn stored(&self) -> Stored {
        let mut formats = Vec::new();
        for Named(format) in self.format.as_deref().unwrap_or(&[Named(Format::Hf)]) {
            if !formats.contains(format) {
                formats.push(*format);
            }
        }
        Stored {
            formats,
            save_dtype: self.save_dtype.map_or_else(Default::default, |t| t.0),
            gguf_type: self.gguf_type.map(|t| t.0),
        }
    }

    /// Fills in the defaults; `None` if no folder is given.
    pub fn resolve(&self) -> Option<OutputSettings> {
        let force = self.force.unwrap_or(false);
        Some(OutputSettings { out: self.out.clone()?, stored: self.stored(), force })
    }
}
