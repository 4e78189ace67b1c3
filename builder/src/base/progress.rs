//! Long work tells how far it is; who listens decides how that looks.

/// Where work reports to. The command shows bars or lines; tests and libraries
/// use [`Quiet`].
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A piece of work begins: `what` for people, and how many bytes (or
    /// pieces) it has, if known.
    fn begin(&self, what: &str, total: Option<u64>) -> Box<dyn Task>;
    /// One finished fact worth a line, such as `layer base: cached`.
    fn note(&self, line: &str);
}

/// A piece of work under way; it ends when dropped.
pub trait Task: Send + Sync {
    /// So many more bytes (or pieces) are done.
    fn advance(&self, by: u64);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(Quiet)
    }
    fn note(&self, _line: &str) {}
}

impl Task for Quiet {
    fn advance(&self, _by: u64) {}
}
