//! Points at which the daemon can be made to die, to show that a successor takes over from any of them: between every two
//! writes that something outside the process can see. Without the feature `crash-points` nothing of it is compiled in.

/// The control thread's points, in the order in which it passes them where a frontend connects.
pub const CONNECT_POINTS: &[&str] = &["opened", "filed", "connected", "handed-out"];

/// A worker's points, in the order in which a turn passes them.
pub const POINTS: &[&str] = &[
    "consumed",
    "fetched-heads",
    "fetched",
    "forwarded",
    "delivered",
    "rx-response",
    "rx-responses",
    "rx-published",
    "sent",
    "tx-response",
    "tx-responses",
    "tx-published",
    "notified",
    "armed",
    "unmasked",
];

/// A worker's point that it passes where a device segments large packets itself: behind each that was handed to the kernel.
pub const LANE_POINT: &str = "lane";

/// Die here if asked to.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {{
        #[cfg(any(test, feature = "crash-points"))]
        {
            const {
                assert!(
                    $crate::crash::is_point($name),
                    "not in a list of crash points"
                )
            };
            $crate::crash::pass($name);
        }
    }};
}

/// Whether `name` is in [`POINTS`] or [`CONNECT_POINTS`], or is [`LANE_POINT`]; at compile time, so that no point can be left out of
/// the lists.
pub const fn is_point(name: &str) -> bool {
    is_in(POINTS, name) || is_in(CONNECT_POINTS, name) || is_in(&[LANE_POINT], name)
}

const fn is_in(points: &[&str], name: &str) -> bool {
    let mut n = 0;
    while n < points.len() {
        let (a, b) = (points[n].as_bytes(), name.as_bytes());
        let mut same = a.len() == b.len();
        let mut i = 0;
        while same && i < a.len() {
            same = a[i] == b[i];
            i += 1;
        }
        if same {
            return true;
        }
        n += 1;
    }
    false
}

/// A point is passed: the process is killed (with `NETBACK_CRASH_BY=panic` the thread panics) if `NETBACK_CRASH_AT` names it (`name`, or `name:n` for its n-th pass, from 1), and
/// the thread goes no further if `NETBACK_HOLD_AT` names it, so that another thread's death falls between two of its steps.
#[cfg(all(feature = "crash-points", not(test)))]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static HELD: OnceLock<Option<String>> = OnceLock::new();
    static ASKED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let held = HELD.get_or_init(|| std::env::var("NETBACK_HOLD_AT").ok());
    while held.as_deref() == Some(name) {
        std::thread::park();
    }
    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("NETBACK_CRASH_AT").ok()?;
        let (name, n) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), n.parse().ok()?))
    });
    if let Some((asked, n)) = asked
        && asked == name
        && PASSES.fetch_add(1, Relaxed) + 1 == *n
    {
        if std::env::var_os("NETBACK_CRASH_BY").is_some_and(|by| by == "panic") {
            panic!("at the crash point {name}");
        }
        die();
    }
}

/// As `kill -9` would: no destructor, no handler, no flush.
#[cfg(all(feature = "crash-points", not(test)))]
#[allow(unsafe_code)] // kill(2)
fn die() -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}

/// In tests a crash is an unwinding panic of the thread: whatever held the worker drops it, and no destructor of it may touch
/// a ring.
#[cfg(test)]
pub use in_tests::pass;

#[cfg(test)]
pub mod in_tests {
    //! A thread says where its next crash is to be.
    use std::cell::RefCell;

    thread_local! {
        static ASKED: RefCell<Option<(&'static str, u64)>> = const { RefCell::new(None) };
    }

    /// What the panic carries.
    pub struct Crash(pub &'static str);

    /// Crash at the `n`-th pass (from 1) of `name`, once; `None` never.
    pub fn at(point: Option<(&'static str, u64)>) {
        ASKED.with_borrow_mut(|asked| *asked = point);
    }

    /// A point is passed.
    pub fn pass(name: &'static str) {
        let crash = ASKED.with_borrow_mut(|asked| match asked {
            Some((point, n)) if *point == name => {
                *n -= 1;
                *n == 0
            }
            _ => false,
        });
        if crash {
            at(None);
            std::panic::resume_unwind(Box::new(Crash(name)));
        }
    }
}
