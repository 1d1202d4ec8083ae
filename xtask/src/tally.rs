//! What passed and what failed, read from the output of `cargo test`.

use std::ops::AddAssign;

/// Tests that passed and tests that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    /// A line for each test that failed and is known by name: the name and what it said.
    pub failures: Vec<String>,
}

/// How much of what a failed test said is repeated, in characters.
const REPEATED: usize = 300;

impl Tally {
    /// One check that is no test of its own (formatting, lints, a build).
    pub fn check(ok: bool) -> Self {
        Self {
            passed: ok.into(),
            failed: (!ok).into(),
            failures: Vec::new(),
        }
    }

    /// A test that failed, by name, with the first line of what it said.
    pub fn failure(name: &str, said: &str) -> Self {
        let line = said.lines().next().unwrap_or_default();
        let said: String = line.chars().take(REPEATED).collect();
        Self {
            failures: vec![format!("{name}: {said}")],
            ..Self::check(false)
        }
    }

    /// The summary line of one test binary, if `line` is one:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub fn of_line(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let count = |name: &str| {
            let part = counts
                .split("; ")
                .find_map(|part| part.strip_suffix(name))?;
            part.trim().parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            failures: Vec::new(),
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }
}

/// Counts the tests in the output of `cargo test`, which it is shown line by line.
#[derive(Default)]
pub struct Reader {
    sum: Tally,
    /// The next line is what the last of the failures said.
    message_follows: bool,
}

impl Reader {
    pub fn see(&mut self, line: &str) {
        let failures = &mut self.sum.failures;
        // A test that returns an error has it printed in one line, a panic has its message in the next.
        let error = line
            .strip_prefix("Error: ")
            .filter(|_| says_nothing(failures));
        if let Some(said) = error.or(self.message_follows.then_some(line)) {
            self.message_follows = false;
            let said = said.chars().take(REPEATED);
            failures.last_mut().expect("a test has failed").extend(said);
        } else if let Some(name) = of_failed(line) {
            failures.push(format!("{name}: "));
        } else if line.starts_with("thread '") && line.contains("panicked at ") {
            // A thread that panics in a test that passes is printed only where output is not captured.
            self.message_follows = says_nothing(failures);
        } else if let Some(tally) = Tally::of_line(line) {
            self.sum += tally;
        }
    }

    pub fn sum(self) -> Tally {
        self.sum
    }
}

/// Whether of the last failure nothing is known but its name.
fn says_nothing(failures: &[String]) -> bool {
    failures.last().is_some_and(|last| last.ends_with(": "))
}

/// The name of the failed test whose output follows `line`: `---- name stdout ----`.
fn of_failed(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Tally};

    #[test]
    fn reads_both_kinds_of_summary() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            Tally::of_line(ok),
            Some(Tally {
                passed: 12,
                ..Tally::default()
            })
        );
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s";
        assert_eq!(
            Tally::of_line(bad),
            Some(Tally {
                passed: 3,
                failed: 2,
                ..Tally::default()
            })
        );
    }

    #[test]
    fn other_lines_are_not_summaries() {
        for line in [
            "",
            "test ring::tests::wraps ... ok",
            "running 3 tests",
            "test result: ok",
            "  test result: ok. 1 passed; 0 failed",
        ] {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }

    #[test]
    fn sums_and_prints_as_the_closing_line() {
        let mut sum = Tally::check(true);
        sum += Tally::check(false);
        sum += Tally {
            passed: 5,
            ..Tally::default()
        };
        assert_eq!(sum.to_string(), "6 passed, 1 failed");
    }

    #[test]
    fn names_failed_tests_and_what_they_said() {
        let output = "\
test first ... ok
test second ... FAILED
test third ... FAILED

failures:

---- second stdout ----
thread 'second' (12) panicked at a.rs:1:2:
assertion failed: x
stack backtrace:

---- third stdout ----
Error: it is late


failures:
    second
    third

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.30s";
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.see(line));
        let sum = reader.sum();
        assert_eq!((sum.passed, sum.failed), (1, 2));
        assert_eq!(
            sum.failures,
            ["second: assertion failed: x", "third: it is late"]
        );
    }
}
