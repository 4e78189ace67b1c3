//! What can go wrong while a layer meets the layers below.

use crate::layers::LayersError;

/// A tree that cannot be made, and why.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Content could not be read.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// Two things at one path that cannot both be there.
    #[error("/{path} is {first}, but {second}; {remedy}")]
    Collision {
        /// The path in the image.
        path: String,
        /// What it is and who made it so.
        first: String,
        /// What else it should be, and who says so.
        second: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A path that no tree can hold.
    #[error("{origin}: the path '{path}' {rule}")]
    BadPath {
        /// Who brings it.
        origin: String,
        /// The path.
        path: String,
        /// What is wrong with it, and the remedy.
        rule: String,
    },
    /// A `remove` that hits nothing below.
    #[error("remove '{0}' hits nothing in the layers below; mend the path, or leave it out")]
    RemovesNothing(String),
    /// A `remove` that cannot be understood.
    #[error("remove '{pattern}': {rule}")]
    BadRemove {
        /// As written.
        pattern: String,
        /// What is wrong with it, and the remedy.
        rule: String,
    },
    /// Symbolic links that lead to themselves.
    #[error(
        "{origin}: the path '{path}' runs in circles through symbolic links; mend one of the links"
    )]
    Loop {
        /// Who brings it.
        origin: String,
        /// The path.
        path: String,
    },
    /// A user or group that cannot be made.
    #[error("{origin}: {problem}")]
    Account {
        /// Who asks for it.
        origin: String,
        /// Value, rule and remedy.
        problem: String,
    },
    /// TLS is wanted, and there is nobody to trust.
    #[error(
        "logs or metrics go over TLS, and no layer brings a certificate authority; add the package ca-certificates, or your own authority as a file /usr/local/share/ca-certificates/NAME.crt"
    )]
    NoCertificates,
    /// A file that only the generated layer may bring.
    #[error("layer '{layer}' brings /{path}, which Slipform makes for the whole image; {remedy}")]
    Generated {
        /// Which layer.
        layer: String,
        /// The path.
        path: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A text that is no listing of a tree.
    #[error("line {line} of a tree's listing {problem}; remove it from the store and build again")]
    Listing {
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Input of the generated layer that cannot be used.
    #[error("/{path}: {problem}")]
    Input {
        /// The file.
        path: String,
        /// Value, rule and remedy.
        problem: String,
    },
}
