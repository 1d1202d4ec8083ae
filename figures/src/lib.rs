//! The pictures in docs/ that show figures. Each is drawn of what a document or a report in docs/ says, so that neither can be changed
//! without the other: a test draws all of them and compares.

pub mod baseline;
pub mod operations;
pub mod performance;
pub mod picture;
pub mod restart;
pub mod table;

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Draws every picture of `docs`. Returns the files' names and contents.
pub fn draw_all(docs: &Path) -> Result<[(&'static str, String); 4]> {
    let read = |name: &str| {
        let file = docs.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    };
    let performance = read("performance.md")?;
    let works = performance::rows(&performance).context("performance.md")?;
    let set_ups = baseline::rows(&performance).context("performance.md")?;
    let paths = operations::rows(&read("benchmarks.md")?).context("benchmarks.md")?;
    let outage = serde_json::from_str(&read("restart.json")?).context("restart.json")?;
    Ok([
        ("performance.svg", performance::draw(&works)?),
        ("baseline.svg", baseline::draw(&set_ups)?),
        ("operations.svg", operations::draw(&paths)?),
        ("restart.svg", restart::draw(&outage)?),
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_pictures_show_what_the_documents_say() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        for (name, drawn) in super::draw_all(&docs).unwrap() {
            let there = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
            assert!(
                there == drawn,
                "docs/{name} shows something else than the documents say: cargo xtask figures"
            );
        }
    }
}
