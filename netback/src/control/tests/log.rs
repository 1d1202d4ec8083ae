//! What the control thread of a test writes into the log.
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use tracing::subscriber::{DefaultGuard, set_default};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of the calling thread, as long as this lives.
pub struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

impl Log {
    pub fn begin() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self {
            lines,
            _guard: set_default(subscriber),
        }
    }

    /// How many lines hold `text`.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.lines.0.lock().unwrap();
        let lines = String::from_utf8_lossy(&lines).into_owned();
        lines.lines().filter(|line| line.contains(text)).count()
    }
}
