//! The package's copyright file: ours, and that of everything linked into the binary, in Debian's machine-readable form.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

/// C libraries that crates bring and link statically: the crate, the library's directory in it, the library's name.
const C_LIBRARIES: [(&str, &str, &str); 2] = [
    ("libbpf-sys", "libbpf/src", "libbpf"),
    ("libxdp-sys", "xdp-tools/lib/libxdp", "libxdp"),
];

/// Names of licences in SPDX and in Debian's form; each has a paragraph in `packaging/copyright`.
const LICENCES: [(&str, &str); 10] = [
    (
        "Apache-2.0 WITH LLVM-exception",
        "Apache-2.0-with-LLVM-exception",
    ),
    ("Apache-2.0", "Apache-2.0"),
    ("BSD-2-Clause", "BSD-2-clause"),
    ("BSD-3-Clause", "BSD-3-clause"),
    ("GPL-2.0", "GPL-2"),
    ("LGPL-2.1", "LGPL-2.1"),
    ("MIT", "Expat"),
    ("Unicode-3.0", "Unicode-3.0"),
    ("Unlicense", "Unlicense"),
    ("Zlib", "Zlib"),
];

/// What is said of files under GPL-2 alone. libxdp's build compiles them for the kernel's BPF machine and embeds the object files.
const BPF_COMMENT: &str = "\
Comment: Sources of BPF programs for the kernel. The binary contains their
 object files as data, because libxdp carries them; netback never loads them.
 No code under GPL-2 alone is linked with netback's own code.
";

/// Whoever holds the rights of some files, and their licence.
struct Part {
    files: String,
    holders: BTreeSet<String>,
    licence: String,
}

/// `ours`, the text of `packaging/copyright`, with a part for each crate that cargo's `metadata` has linked into netback, and for
/// each C library in them.
pub fn complete(ours: &str, metadata: &Value) -> Result<String> {
    let mut parts = Vec::new();
    for package in linked(metadata)? {
        parts.push(crate_part(package)?);
        let library = C_LIBRARIES
            .iter()
            .find(|(name, ..)| package["name"] == *name);
        if let Some((_, directory, name)) = library {
            parts.extend(library_parts(name, &root(package)?.join(directory))?);
        }
    }
    let (head, licences) = ours
        .split_once("\n\nLicense: ")
        .context("packaging/copyright has no paragraph of a licence")?;
    let mut text = head.to_owned() + "\n\n";
    for part in &parts {
        for word in part
            .licence
            .split(' ')
            .filter(|word| !["or", "and"].contains(word))
        {
            let paragraph = format!("\nLicense: {word}\n");
            ensure!(
                format!("\nLicense: {licences}").contains(&paragraph),
                "packaging/copyright has no text of the licence {word}, of {}",
                part.files
            );
        }
        let holders: Vec<&str> = part.holders.iter().map(String::as_str).collect();
        let comment = match part.licence.as_str() {
            "GPL-2" => BPF_COMMENT,
            _ => "",
        };
        text += &format!(
            "Files: {}\nCopyright: {}\nLicense: {}\n{comment}\n",
            part.files,
            holders.join("\n "),
            part.licence
        );
    }
    Ok(text + "License: " + licences)
}

/// Packages from elsewhere that are linked into netback: what runs only while it is built (build scripts, macros) is not.
fn linked(metadata: &Value) -> Result<Vec<&Value>> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let id = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().context("no packages")?;
    let packages: HashMap<String, &Value> = packages.iter().map(|p| (id(p), p)).collect();
    let nodes = metadata["resolve"]["nodes"]
        .as_array()
        .context("no graph")?;
    let nodes: HashMap<String, &Value> = nodes.iter().map(|node| (id(node), node)).collect();
    let netback = packages
        .values()
        .find(|package| package["name"] == "netback");
    let mut waiting = vec![id(netback.context("no package netback")?)];
    let mut seen = BTreeSet::new();
    while let Some(next) = waiting.pop() {
        let package = packages.get(&next).context("a dependency is no package")?;
        let is_macro = list(&package["targets"])
            .iter()
            .any(|target| list(&target["kind"]).contains(&"proc-macro".into()));
        if is_macro || !seen.insert(next.clone()) {
            continue;
        }
        let node = nodes.get(&next).context("a package is not in the graph")?;
        for dependency in list(&node["deps"]) {
            let kinds = list(&dependency["dep_kinds"]);
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(dependency["pkg"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    let mut linked: Vec<&Value> = seen.iter().map(|id| packages[id]).collect();
    linked.retain(|package| !package["source"].is_null());
    linked.sort_by_key(|package| package["name"].as_str().unwrap_or_default());
    Ok(linked)
}

fn root(package: &Value) -> Result<&Path> {
    let manifest = package["manifest_path"].as_str().context("no manifest")?;
    Path::new(manifest).parent().context("no directory")
}

/// A crate's part: the holders that its licence files name, else its authors, else its contributors.
fn crate_part(package: &Value) -> Result<Part> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let name = format!("{}-{}", text("name"), text("version"));
    let mut holders = BTreeSet::new();
    for entry in fs::read_dir(root(package)?)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().to_lowercase();
        if ["licen", "copying", "copyright"]
            .iter()
            .any(|start| file.starts_with(start))
            && entry.file_type()?.is_file()
        {
            let lines = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
            holders.extend(lines.lines().filter_map(holder));
        }
    }
    if holders.is_empty() {
        let authors = package["authors"].as_array().into_iter().flatten();
        holders.extend(authors.filter_map(|author| author.as_str().map(str::to_owned)));
    }
    if holders.is_empty() {
        holders.insert(format!("the contributors of {}", text("name")));
    }
    Ok(Part {
        licence: licence(text("license")).with_context(|| name.clone())?,
        files: format!("crates/{name}/*"),
        holders,
    })
}

/// The parts of a C library, one for each licence that its files name in their first lines.
fn library_parts(name: &str, directory: &Path) -> Result<Vec<Part>> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.collect::<std::io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files.into_iter().filter(|file| file.path().is_file()) {
        let text = String::from_utf8_lossy(&fs::read(file.path())?).into_owned();
        let spdx = text
            .lines()
            .take(3)
            .find_map(|line| line.split_once("SPDX-License-Identifier:"));
        let Some((_, spdx)) = spdx else { continue };
        let spdx = spdx.trim().trim_end_matches("*/").trim();
        let licence = licence(spdx.trim_matches(['(', ')']))?;
        let part = parts.entry(licence.clone()).or_insert_with(|| Part {
            files: String::new(),
            holders: BTreeSet::new(),
            licence,
        });
        let separator = if part.files.is_empty() { "" } else { "\n " };
        let file = file.file_name().to_string_lossy().into_owned();
        part.files += &format!("{separator}{name}/{file}");
        let comments = text.lines().map(|line| line.trim_matches(['/', '*', ' ']));
        part.holders.extend(comments.filter_map(holder));
    }
    ensure!(!parts.is_empty(), "{}: no sources", directory.display());
    for part in parts.values_mut().filter(|part| part.holders.is_empty()) {
        part.holders.insert(format!("the contributors of {name}"));
    }
    Ok(parts.into_values().collect())
}

/// Who holds the rights, where the line says so with a year or a sign, as licences' own texts do not.
fn holder(line: &str) -> Option<String> {
    let line = line.trim();
    let rest = line
        .strip_prefix("Copyright")
        .or(line.strip_prefix("copyright"))?;
    let rest = rest.trim_start_matches([':', ' ']);
    let signed = ["(c)", "(C)", "\u{a9}"]
        .iter()
        .find_map(|sign| rest.strip_prefix(sign));
    let holder = signed.unwrap_or(rest).trim().trim_end_matches('.');
    let has_year = holder.starts_with(|c: char| c.is_ascii_digit());
    let is_template = holder.contains('[') || holder.contains('{');
    ((signed.is_some() || has_year) && !holder.is_empty() && !is_template)
        .then(|| holder.to_owned())
}

/// An SPDX expression in Debian's names.
fn licence(spdx: &str) -> Result<String> {
    let spdx = spdx.replace('/', " OR ");
    let mut words = Vec::new();
    let mut rest = spdx.trim();
    while !rest.is_empty() {
        let (name, debian) = [("OR", "or"), ("AND", "and")]
            .iter()
            .chain(&LICENCES)
            .find(|(name, _)| {
                let after = rest.strip_prefix(name);
                after.is_some_and(|after| after.is_empty() || after.starts_with(' '))
            })
            .with_context(|| format!("unknown licence {rest:?}"))?;
        words.push(*debian);
        rest = rest[name.len()..].trim_start();
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_get_debian_s_names() {
        let named = |spdx| licence(spdx).unwrap();
        assert_eq!(named("MIT OR Apache-2.0"), "Expat or Apache-2.0");
        assert_eq!(named("Apache-2.0/MIT"), "Apache-2.0 or Expat");
        assert_eq!(
            named("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"),
            "Apache-2.0-with-LLVM-exception or Apache-2.0 or Expat"
        );
        assert!(licence("Proprietary").is_err());
    }

    #[test]
    fn a_holder_is_named_with_a_year_or_a_sign() {
        for (line, found) in [
            (
                "Copyright (c) 2016 Alex Crichton",
                Some("2016 Alex Crichton"),
            ),
            (
                "Copyright 2015-2020 The Authors.",
                Some("2015-2020 The Authors"),
            ),
            ("Copyright \u{a9} Mara", Some("Mara")),
            ("copyright notice and this permission notice shall", None),
            ("Copyright [yyyy] [name of copyright owner]", None),
            ("Copyright License. Subject to the terms", None),
        ] {
            assert_eq!(holder(line).as_deref(), found, "{line}");
        }
    }

    #[test]
    fn what_is_linked_into_the_binary_is_in_the_file() {
        let ours = fs::read_to_string(crate::build::workspace().join("packaging/copyright"));
        let text = complete(&ours.unwrap(), &crate::deb::metadata().unwrap()).unwrap();
        for part in [
            "Files: crates/clap-",
            "Files: crates/libbpf-sys-",
            "libbpf/libbpf.c\n",
            "libxdp/xsk.c\n",
            "License: GPL-2\nComment: Sources of BPF programs",
            "License: LGPL-2.1 or BSD-2-clause\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for paragraph in text.split("\n\n").filter(|p| p.starts_with("Files: ")) {
            for field in ["Files: ", "\nCopyright: ", "\nLicense: "] {
                assert_eq!(paragraph.matches(field).count(), 1, "{paragraph}");
            }
        }
        // Of libxdp, only BPF programs are under GPL-2 alone.
        let gpl = text
            .split("\n\n")
            .find(|p| p.contains("\nLicense: GPL-2\nComment"));
        let files = gpl.unwrap().split("\nCopyright").next().unwrap();
        assert_eq!(
            files,
            "Files: libxdp/xdp-dispatcher.c.in\n libxdp/xsk_def_xdp_prog.c\n libxdp/xsk_def_xdp_prog_5.3.c"
        );
        // Neither what only tests and builds use, nor our own crates.
        for part in [
            "crates/proptest-",
            "crates/bindgen-",
            "crates/serde_derive-",
            "crates/netif-ring-",
        ] {
            assert!(!text.contains(part), "{part}");
        }
    }
}
