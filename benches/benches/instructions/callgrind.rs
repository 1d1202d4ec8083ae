//! Runs a worker under callgrind, and reads what callgrind writes
//! (<https://valgrind.org/docs/manual/cl-format.html>).
use crate::rig::{Passed, Path};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};

/// The function at which counting begins and ends.
const COUNTED: &str = "*::counted_turn";

/// The library that answers for Xen's devices in the place of the kernel. Its functions are named by it.
const SIMULATOR: &str = "libsim_preload.so";

/// What the turn calls and is not our own: hypervisor and device, fake or simulated, with all that they call.
const FOREIGN: [&str; 6] = [
    SIMULATOR,
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
    /// Packets that passed, and what was copied for them.
    pub passed: Passed,
    /// Instructions of our own, of all functions.
    pub total: f64,
    /// By function that the turn calls, with what that calls; the turn's own code under its own name.
    pub stages: BTreeMap<String, f64>,
    /// By function, without what it calls.
    pub functions: BTreeMap<String, f64>,
}

/// Counts one path through a worker in a process of its own, which is this program.
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
    let passed = serde_json::from_slice(&run.stdout)?;
    let profile = Profile::parse(&profile.context("callgrind wrote nothing")?)?;
    let counted = profile.find(|name| name.ends_with("::counted_turn"));
    Ok(profile.count(counted.context("no turn was counted")?, passed))
}

/// Reads what callgrind wrote of one thread of the daemon. `None`: the thread is no worker.
pub fn count_worker(text: &str, passed: Passed) -> Result<Option<Count>> {
    let profile = Profile::parse(text)?;
    let run =
        profile.find(|name| name.starts_with("netback::worker::run::") && name.ends_with("::run"));
    Ok(run.map(|run| profile.count(run, passed)))
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
        let mut profile = Self::default();
        let (mut objects, mut names) = (Names::default(), Names::default());
        let (mut object, mut callee_object) = (String::new(), String::new());
        let (mut function, mut callee, mut is_call) = (String::new(), String::new(), false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = objects.resolve(name, "")?;
            } else if let Some(name) = line.strip_prefix("cob=") {
                callee_object = objects.resolve(name, "")?;
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = names.resolve(name, prefix(&object))?;
                callee_object.clone_from(&object);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = names.resolve(name, prefix(&callee_object))?;
                // It is named for one call only.
                callee_object.clone_from(&object);
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

    fn find(&self, is_it: impl Fn(&str) -> bool) -> Option<&str> {
        self.own.keys().map(String::as_str).find(|name| is_it(name))
    }

    /// What is our own of function `root` and all that it calls.
    fn count(&self, root: &str, passed: Passed) -> Count {
        let mut shares = HashMap::new();
        let total = self.with_calls(root, &mut shares);
        let turn = self.find(is_turn).unwrap_or(root);
        let mut stages = self.below(turn, &mut shares);
        *stages.entry(short(turn)).or_default() += self.own[turn] as f64;
        let outside = total - stages.values().sum::<f64>();
        stages.insert("outside the turn".into(), outside);
        let mut functions = BTreeMap::new();
        let mut reached = HashMap::from([(root, 1.0)]);
        for (name, &cost) in &self.own {
            let reached = self.reached(name, &mut reached);
            if reached > 0.0 {
                *functions.entry(short(name)).or_default() += cost as f64 * reached;
            }
        }
        Count {
            passed,
            total,
            stages,
            functions,
        }
    }

    /// What is our own of a function with what it calls.
    fn with_calls<'a>(&'a self, name: &'a str, shares: &mut HashMap<&'a str, f64>) -> f64 {
        let own = self.own.get(name).copied().unwrap_or(0);
        own as f64 + self.below(name, shares).values().sum::<f64>()
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

    /// How much of a function's cost comes of calls that are our own, from the root down: 0 to 1.
    fn reached<'a>(&'a self, name: &'a str, known: &mut HashMap<&'a str, f64>) -> f64 {
        if let Some(&reached) = known.get(name) {
            return reached;
        }
        // Of functions that call each other the outermost call counts; their shares are estimates then, and the path's sum is none.
        known.insert(name, 0.0);
        if is_foreign(name) {
            return 0.0;
        }
        let (mut ours, mut all) = (0.0, 0.0);
        for (caller, callees) in &self.calls {
            let cost = callees.get(name).copied().unwrap_or(0) as f64;
            if cost > 0.0 && caller != name {
                ours += cost * self.reached(caller, known);
                all += cost;
            }
        }
        let reached = if all == 0.0 { 0.0 } else { ours / all };
        known.insert(name, reached);
        reached
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
        let ours = self.with_calls(name, shares);
        let share = match self.own.get(name).copied().unwrap_or(0) + below {
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

/// Names by number: a name is written out where it comes first, as in `(12) name`, and is `(12)` from then on.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    /// The name that `text` stands for. One that is written out is kept with `prefix` before it.
    fn resolve(&mut self, text: &str, prefix: &str) -> Result<String> {
        let (number, name) = text.split_once(')').context("a name without a number")?;
        let name = name.trim_start();
        if !name.is_empty() {
            self.0.insert(number.into(), format!("{prefix}{name}"));
        }
        let name = self.0.get(number).cloned();
        name.context("a number that was not named")
    }
}

/// What is put before the names of an object's functions.
fn prefix(object: &str) -> &'static str {
    match object.ends_with(SIMULATOR) {
        true => SIMULATOR,
        false => "",
    }
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
