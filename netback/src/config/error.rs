//! Why a configuration is refused, in one line.
use std::fmt;
use std::path::PathBuf;

/// Why a configuration was refused: one line, `file:line: field: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the operator named it.
    pub file: PathBuf,
    /// Line of the value, from 1; `None` where there is no file or no such line.
    pub line: Option<usize>,
    /// The field, as `table.key`; empty where the text is not TOML.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}
impl std::error::Error for ConfigError {}
