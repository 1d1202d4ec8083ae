//! Draws the pictures of the directory that is given.

use anyhow::{Context, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    let docs = std::env::args_os().nth(1).context("no directory given")?;
    let docs = PathBuf::from(docs);
    for (name, drawn) in figures::draw_all(&docs)? {
        let file = docs.join(name);
        std::fs::write(&file, drawn).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}", file.display());
    }
    Ok(())
}
