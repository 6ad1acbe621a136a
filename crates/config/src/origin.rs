//! Where a value came from. Leaves to say what it overrode to `explain`.

use std::fmt;
use std::sync::Arc;

/// The place of a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// Nobody wrote it.
    Default,
    /// The store's `config` key, or its cache.
    Dynamic,
    /// A line of a file.
    File {
        /// The path as it was given; empty for a text without a name.
        name: Arc<str>,
        /// From 1.
        line: u64,
    },
    /// An environment variable of Patroni's.
    Environment(Arc<str>),
    /// A container variable of Spilo's.
    Spilo(Arc<str>),
}

impl Origin {
    /// Whether a reader finds the place by this alone.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::File { name, .. } => !name.is_empty(),
            Self::Default | Self::Dynamic | Self::Environment(_) | Self::Spilo(_) => true,
        }
    }

    /// The kind of place in a word, for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Dynamic => "dynamic",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Spilo(_) => "container",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Dynamic => f.write_str("dynamic configuration"),
            Self::File { name, line } if name.is_empty() => write!(f, "line {line}"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Spilo(name) => write!(f, "container variable {name}"),
        }
    }
}
