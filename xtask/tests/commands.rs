//! `cargo xtask` as it is typed.
use std::process::{Command, Output};

/// What xtask does with `arguments`, where there is no cargo that it could build with.
fn xtask(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).env("CARGO", "/nonexistent/cargo");
    command.output().expect("xtask starts")
}

#[test]
fn a_wrong_argument_of_the_demo_is_refused_before_anything_is_built() {
    for (arguments, named) in [
        (&["demo", "--jsno"][..], "unexpected argument '--jsno'"),
        (&["demo", "--queues", "9"], "invalid value '9'"),
        (&["demo", "--hold", "--json"], "cannot be used with"),
    ] {
        let output = xtask(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(named), "{arguments:?}: {error}");
        assert!(!error.contains("/nonexistent"), "{arguments:?}: {error}");
    }
}

#[test]
fn the_demo_calls_itself_by_what_is_typed() {
    let output = xtask(&["demo", "--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && help.contains("Usage: cargo xtask demo"),
        "{help}"
    );
}

/// `--quiet` would hide that cargo waits for another cargo, too.
#[test]
fn cargo_is_not_told_to_be_quiet() {
    let config = include_str!("../../.cargo/config.toml");
    assert!(
        config.contains("xtask = ") && !config.contains("--quiet"),
        "{config}"
    );
}
