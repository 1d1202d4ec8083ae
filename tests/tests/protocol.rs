//! docs/protocol.md names tests for what it says, and each of them exists.
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// Returns the Rust sources below `directory`.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_test_that_the_protocol_s_table_names_is_there() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for room in ["tests", "netback", "ring", "xsk-bridge"] {
        for part in ["src", "tests"] {
            let directory = root.join(room).join(part);
            if directory.is_dir() {
                sources(&directory, &mut files)?;
            }
        }
    }
    let text = std::fs::read_to_string(root.join("docs/protocol.md"))?;
    let quoted = text.split('`').skip(1).step_by(2);
    let named: Vec<(&str, &str)> = quoted
        .filter_map(|words| words.split_once(".rs: "))
        .collect();
    ensure!(named.len() > 30, "only {} tests are named", named.len());
    for (file, test) in named {
        let function = format!("fn {test}(");
        let in_file = files.iter().filter(|path| {
            path.file_name()
                .is_some_and(|name| name == format!("{file}.rs").as_str())
        });
        let mut there = false;
        for path in in_file {
            let source = std::fs::read_to_string(path).context("a source vanished")?;
            there |= source.contains(&function);
        }
        ensure!(there, "{file}.rs has no test {test}");
    }
    Ok(())
}
