//! The methods of the table.

/// The dense model's name among the methods.
pub(super) const DENSE: &str = "dense";

/// A row of the table.
#[derive(Debug)]
pub(super) struct Method {
    /// Its name in the table and on the command line.
    pub name: &'static str,
    pub runner: Runner,
}

/// Who runs a method, and with which arguments beside the common ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum Runner {
    /// `reference/peers.py`.
    Theirs(&'static [&'static str]),
    /// `adapruner prune`.
    Ours(&'static [&'static str]),
}

impl Method {
    const fn theirs(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { name, runner: Runner::Theirs(arguments) }
    }

    const fn ours(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { name, runner: Runner::Ours(arguments) }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.runner, Runner::Ours(_))
    }
}

/// Peers first. The literature spares the first four and the last two layers of 32; these
/// are what is spared here whatever the depth.
pub(super) const METHODS: &[Method] = &[
    Method::theirs(DENSE, &["--method", "dense"]),
    Method::theirs("wanda", &["--method", "wanda"]),
    Method::theirs("wanda-spared", &["--method", "wanda", "--protect", "4", "2"]),
    Method::theirs("wanda-spared-bias", &["--method", "wanda", "--protect", "4", "2", "--bias"]),
    Method::theirs("wanda-sp", &["--method", "wanda_sp"]),
    Method::theirs("flap", &["--method", "flap"]),
    Method::theirs("llm-pruner", &["--method", "llm_pruner", "--protect", "4", "2"]),
    Method::theirs("shortgpt", &["--method", "shortgpt"]),
    Method::theirs("greedy-layers", &["--method", "greedy"]),
    Method::theirs("slicegpt", &["--method", "slicegpt"]),
    Method::theirs("masks-from-scratch", &["--method", "masks"]),
    Method::ours(
        "taylor-spared",
        &["--importance", "param_first", "--protect", "4,2", "--learn-masks", "0"],
    ),
    Method::ours(
        "taylor-spared-compensated",
        &["--importance", "param_first", "--protect", "4,2", "--learn-masks", "0", "--compensate"],
    ),
    Method::ours("fast", &["--fast"]),
    Method::ours("default", &[]),
];
