//! Runs this program under callgrind, and reads what it writes
//! (<https://valgrind.org/docs/manual/cl-format.html>).
use crate::rig::Path;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};

/// The function at which counting begins and ends.
const COUNTED: &str = "*::counted_turn";

/// What the turn calls and is not our own: the fake hypervisor and the device, with all that they call.
const FOREIGN: [&str; 5] = [
    "fake::grants::Grants::perform_copies",
    "fake::events::Events::take_pending",
    "fake::events::Events::count_event",
    "fake::events::Events::clear_masks",
    "Wire as xsk_bridge::device::Device",
];

fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|foreign| name.contains(foreign))
}

/// Instructions of all turns that are counted.
pub struct Count {
    /// Packets that passed.
    pub packets: usize,
    /// In all.
    pub total: f64,
    /// By function that the turn calls, with what that calls; the turn's own code under its own name.
    pub stages: BTreeMap<String, f64>,
    /// By function, without what it calls.
    pub functions: BTreeMap<String, f64>,
}

/// Counts one path.
pub fn count(path: Path, size: usize) -> Result<Count> {
    let output = std::env::temp_dir().join(format!("netback-callgrind-{}", std::process::id()));
    let argument = clap::ValueEnum::to_possible_value(&path).context("a path that can be named")?;
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(std::env::current_exe()?)
        .args(["--turn", argument.get_name(), "--size", &size.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start valgrind: apt install valgrind")?;
    let profile = std::fs::read_to_string(&output);
    let _ = std::fs::remove_file(&output);
    ensure!(run.status.success(), "valgrind: {}", run.status);
    let packets = String::from_utf8(run.stdout)?.trim().parse()?;
    Profile::parse(&profile.context("callgrind wrote nothing")?)?.count(packets)
}

/// Costs by function, as callgrind wrote them.
#[derive(Default)]
struct Profile {
    /// Without calls.
    own: HashMap<String, u64>,
    /// Of calls, by caller and callee.
    calls: HashMap<String, HashMap<String, u64>>,
}

impl Profile {
    fn parse(text: &str) -> Result<Self> {
        let (mut profile, mut names) = (Self::default(), HashMap::new());
        let (mut function, mut callee, mut is_call) = (String::new(), String::new(), false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = resolve(&mut names, name)?;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = resolve(&mut names, name)?;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit()) {
                // A position and a cost.
                let cost = line.split(' ').nth(1).unwrap_or("0").parse::<u64>()?;
                let sum = match std::mem::take(&mut is_call) {
                    true => {
                        let calls = profile.calls.entry(function.clone()).or_default();
                        calls.entry(callee.clone()).or_default()
                    }
                    false => profile.own.entry(function.clone()).or_default(),
                };
                *sum += cost;
            }
        }
        Ok(profile)
    }

    fn count(&self, packets: usize) -> Result<Count> {
        let mut names = self.own.keys();
        let counted = names.find(|name| name.ends_with("::counted_turn"));
        let counted = counted.context("no turn was counted")?;
        let mut names = self.own.keys();
        let turn = names.find(|name| is_turn(name)).unwrap_or(counted);
        let mut shares = HashMap::new();
        let total =
            self.own[counted] as f64 + self.below(counted, &mut shares).values().sum::<f64>();
        let mut stages = self.below(turn, &mut shares);
        *stages.entry(short(turn)).or_default() += self.own[turn] as f64;
        let mut functions = BTreeMap::new();
        for (name, &cost) in &self.own {
            if shares.get(&**name).is_some_and(|&share| share > 0.0) {
                *functions.entry(short(name)).or_default() += cost as f64;
            }
        }
        Ok(Count {
            packets,
            total,
            stages,
            functions,
        })
    }

    /// What is our own of each call that a function makes, by short name.
    fn below<'a>(
        &'a self,
        caller: &'a str,
        shares: &mut HashMap<&'a str, f64>,
    ) -> BTreeMap<String, f64> {
        let mut below = BTreeMap::new();
        for (callee, &cost) in self.calls.get(caller).into_iter().flatten() {
            *below.entry(short(callee)).or_default() += cost as f64 * self.share(callee, shares);
        }
        below
    }

    /// How much of a function's cost, with what it calls, is our own: 0 to 1.
    fn share<'a>(&'a self, name: &'a str, shares: &mut HashMap<&'a str, f64>) -> f64 {
        if let Some(&share) = shares.get(name) {
            return share;
        }
        // A function that calls itself is taken as wholly our own within itself.
        shares.insert(name, if is_foreign(name) { 0.0 } else { 1.0 });
        if is_foreign(name) {
            return 0.0;
        }
        let calls = self.calls.get(name).into_iter().flatten();
        let below: u64 = calls.map(|(_, &cost)| cost).sum();
        let own = self.own.get(name).copied().unwrap_or(0);
        let ours = own as f64 + self.below(name, shares).values().sum::<f64>();
        let share = match own + below {
            0 => 0.0,
            all => ours / all as f64,
        };
        shares.insert(name, share);
        share
    }
}

/// `Worker::turn`, wherever it lives.
fn is_turn(name: &str) -> bool {
    name.starts_with("netback::") && name.ends_with("::turn") && !name.contains("::driver::")
}

/// A name, which is written out the first time: `(12) name`, then `(12)`.
fn resolve(names: &mut HashMap<String, String>, text: &str) -> Result<String> {
    let (number, name) = text
        .split_once(')')
        .context("a function without a number")?;
    let name = name.trim_start();
    if !name.is_empty() {
        names.insert(number.into(), name.into());
    }
    names
        .get(number)
        .cloned()
        .context("a function that was not named")
}

/// A function without its crate's modules and its type's parameters.
fn short(name: &str) -> String {
    let name = name.strip_suffix("'2").unwrap_or(name);
    let (mut text, mut depth) = (String::new(), 0);
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            c if depth == 0 => text.push(c),
            _ => {}
        }
    }
    let parts: Vec<&str> = text.split("::").filter(|part| !part.is_empty()).collect();
    match parts.len() {
        0 => name.into(),
        count => parts[count.saturating_sub(2)..].join("::"),
    }
}
