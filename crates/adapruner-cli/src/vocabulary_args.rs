//! Arguments of vocabulary trimming, also a table of the configuration file.

use std::path::PathBuf;

use adapruner::{
    settings::TextSettings,
    vocabulary::{Tokens, VocabularySettings},
};
use adapruner_checkpoint::atomic::Files;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::{CalibrationArgs, EvalArgs},
    combine::combine,
    failure::advised,
    typed::{Named, Proportion},
};

/// Which tokens to keep.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Vocabulary")]
pub struct VocabularyArgs {
    /// Trim the vocabulary to the N tokens that your texts need most, or "auto" for the fewest
    /// that --vocab-tolerance allows. Bytes, special and added tokens and those of the chat
    /// template always stay, so every text can still be encoded. The tokenizer, embedding, head
    /// and all ids in the model's files are updated. Removed rows count towards --ratio;
    /// without --ratio the layers stay unchanged
    #[arg(long, value_name = "N|auto")]
    pub vocab: Option<Named<Tokens>>,
    /// Text to count tokens in, in the forms of --text; repeatable. Give texts of all languages
    /// and kinds that the model is meant for [default: the calibration text]
    #[arg(long, value_name = "FILE|SET")]
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub vocab_text: Option<Vec<PathBuf>>,
    /// Pad the embedding to a multiple of N rows, with rows that belong to no token and never
    /// have the largest logit [default: 1]
    #[arg(long, value_name = "N")]
    pub vocab_multiple_of: Option<usize>,
    /// Tolerance of "auto": how many more tokens, as a share, held-out text may need than with
    /// the whole vocabulary [default: 0.005]
    #[arg(long, value_name = "SHARE")]
    pub vocab_tolerance: Option<Proportion>,
}

combine!(VocabularyArgs { vocab, vocab_text, vocab_multiple_of, vocab_tolerance });

/// Half a percent more tokens.
const TOLERANCE: f64 = 0.005;

impl VocabularyArgs {
    /// What is read.
    pub fn files(&self, files: Files) -> Files {
        let texts = self.vocab_text.iter().flatten();
        texts.fold(files, |files, text| files.read("--vocab-text", text))
    }

    /// Fills in the defaults; `None` if the whole vocabulary stays.
    ///
    /// # Errors
    /// No text, or options that have no effect without `--vocab`.
    pub fn resolve(
        &self,
        calibration: &CalibrationArgs,
        eval: &EvalArgs,
    ) -> Result<Option<VocabularySettings>> {
        let Some(Named(tokens)) = self.vocab else {
            let idle = [
                ("vocab-text", self.vocab_text.is_some()),
                ("vocab-multiple-of", self.vocab_multiple_of.is_some()),
                ("vocab-tolerance", self.vocab_tolerance.is_some()),
            ];
            return match idle.into_iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((name, _)) => Err(advised(
                    format!("{name}: has no effect without --vocab"),
                    "give the number of tokens to keep: --vocab N, or --vocab auto",
                )),
            };
        };
        let field = calibration.calibration_field.clone().or_else(|| eval.field.clone());
        let texts = match (&self.vocab_text, &calibration.calibration) {
            (Some(texts), _) if !texts.is_empty() => texts.clone(),
            (Some(_) | None, Some(text)) => vec![text.clone()],
            (Some(_) | None, None) => {
                return Err(advised(
                    "vocab-text: missing, and there is no calibration text either",
                    "give texts of the kind that the model is meant for: --vocab-text FILE",
                ));
            }
        };
        let of = |text| TextSettings { field: field.clone(), ..eval.text_settings(text) };
        Ok(Some(VocabularySettings {
            tokens,
            texts: texts.into_iter().map(of).collect(),
            multiple_of: self.vocab_multiple_of.unwrap_or(1),
            tolerance: self.vocab_tolerance.map_or(TOLERANCE, |Proportion(share)| share),
        }))
    }
}
