//! What passed and what failed, read off the output of `cargo test`.

use std::ops::AddAssign;

/// Tests that passed and tests that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
}

impl Tally {
    /// One check that is no test of its own (formatting, lints, a build).
    pub fn check(ok: bool) -> Self {
        Self {
            passed: ok.into(),
            failed: (!ok).into(),
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
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn reads_both_kinds_of_summary() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            Tally::of_line(ok),
            Some(Tally {
                passed: 12,
                failed: 0
            })
        );
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s";
        assert_eq!(
            Tally::of_line(bad),
            Some(Tally {
                passed: 3,
                failed: 2
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
            failed: 0,
        };
        assert_eq!(sum.to_string(), "6 passed, 1 failed");
    }
}
