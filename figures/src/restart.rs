//! What a restart looks like: packets that arrive, in either direction, around a `kill -9` of the daemon.

use crate::picture::{self, BLUE, GREY, ORANGE, Picture, Side};
use anyhow::{Result, ensure};
use serde::Deserialize;

/// The report of `cargo xtask demo --restart --json`, as far as it is drawn.
#[derive(Debug, Clone, Deserialize)]
pub struct Outage {
    /// From the kill to the first packet that passes again.
    pub outage_ms: Directions,
    /// Packets of the probes that arrived, a thousand a second being sent in each direction.
    pub timeline: Vec<Interval>,
    /// Of the machine that it was measured on.
    pub kernel: String,
}

/// Milliseconds for each direction.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Directions {
    /// From the guest to the network.
    pub guest_to_outside: f64,
    /// From the network to the guest.
    pub outside_to_guest: f64,
}

/// What arrived within a while.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Interval {
    /// When it begins, in milliseconds from the kill on.
    pub from_ms: i64,
    /// Packets that arrived outside.
    pub guest_to_outside: u64,
    /// Packets that arrived in the guest.
    pub outside_to_guest: u64,
}

/// Pixels: the picture, where time begins, the height of a bar of all packets that are sent in its
/// time and of the tallest bar, and where each direction's bars stand.
const SIZE: (i32, i32) = (900, 330);
const LEFT: i32 = 60;
const WIDTH: i32 = 800;
const AS_SENT: i32 = 40;
const TALLEST: i32 = 90;
/// Packets that a probe sends in a millisecond.
const SENT_A_MS: f64 = 1.0;
const BASES: [i32; 2] = [150, 270];

/// Draws the report. Returns the picture as SVG.
pub fn draw(outage: &Outage) -> Result<String> {
    let [first, .., last] = &outage.timeline[..] else {
        anyhow::bail!("the timeline has fewer than two intervals");
    };
    let step = outage.timeline[1].from_ms - first.from_ms;
    ensure!(step > 0, "the timeline does not go forward");
    let (begin, end) = (first.from_ms, last.from_ms + step);
    let x = move |ms: f64| {
        LEFT + ((ms - begin as f64) / (end - begin) as f64 * f64::from(WIDTH)).round() as i32
    };
    picture::draw(SIZE, |picture| {
        picture.text(
            "packets that arrive, of a thousand a second in each direction",
            (LEFT, 22),
            Side::Right,
            15,
        )?;
        let lanes = [
            ("guest to network", outage.outage_ms.guest_to_outside, BLUE),
            (
                "network to guest",
                outage.outage_ms.outside_to_guest,
                ORANGE,
            ),
        ];
        for (lane, (name, ms, color)) in lanes.into_iter().enumerate() {
            let base = BASES[lane];
            let packets =
                |interval: &Interval| [interval.guest_to_outside, interval.outside_to_guest][lane];
            for interval in &outage.timeline {
                let packets = packets(interval);
                let whole = packets as f64 / (SENT_A_MS * step as f64) * f64::from(AS_SENT);
                let height = (whole.round() as i32).min(TALLEST);
                let from = x(interval.from_ms as f64);
                let to = x((interval.from_ms + step) as f64);
                picture.bar((from, base - height), (to - from - 1, height), color)?;
                if height < whole.round() as i32 {
                    // The bar is cut: it says how many packets it stands for.
                    let beside = (to + 4, base - TALLEST + 6);
                    picture.text(
                        &format!("{packets} packets, sent meanwhile"),
                        beside,
                        Side::Right,
                        12,
                    )?;
                }
            }
            picture.line(&[(LEFT, base), (LEFT + WIDTH, base)], GREY)?;
            picture.text(
                &format!("{name}: the first packet again after {ms:.0} ms"),
                (LEFT + WIDTH, base - TALLEST - 10),
                Side::Left,
                13,
            )?;
        }
        scale(picture, begin, end, &x)?;
        let kill = x(0.0);
        picture.line(&[(kill, 34), (kill, BASES[1])], GREY)?;
        picture.text("kill -9", (kill + 5, 40), Side::Right, 12)
    })
}

/// Marks every hundred milliseconds below the bars.
fn scale(picture: &Picture, begin: i64, end: i64, x: &impl Fn(f64) -> i32) -> Result<()> {
    for ms in (begin..=end).filter(|ms| ms % 100 == 0) {
        let place = x(ms as f64);
        picture.line(&[(place, BASES[1]), (place, BASES[1] + 5)], GREY)?;
        picture.text(&ms.to_string(), (place, BASES[1] + 15), Side::Middle, 12)?;
    }
    let place = (LEFT + WIDTH / 2, BASES[1] + 38);
    picture.text(
        "milliseconds after the daemon was killed",
        place,
        Side::Middle,
        13,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(packets: &[u64]) -> Outage {
        let interval = |(n, &packets): (usize, &u64)| Interval {
            from_ms: n as i64 * 100 - 100,
            guest_to_outside: packets,
            outside_to_guest: packets,
        };
        Outage {
            outage_ms: Directions {
                guest_to_outside: 90.0,
                outside_to_guest: 85.5,
            },
            timeline: packets.iter().enumerate().map(interval).collect(),
            kernel: String::new(),
        }
    }

    #[test]
    fn a_bar_is_as_tall_as_its_packets() {
        let drawn = draw(&outage(&[100, 0, 50, 300])).unwrap();
        // Four intervals are 800 pixels; each bar leaves one to its neighbour. A bar that is too tall is cut and says so.
        for height in [40, 20, 90] {
            let bars = picture::test::widths(&drawn, height);
            assert_eq!(bars, [199, 199], "{height}: {drawn}");
        }
        assert_eq!(drawn.matches("300 packets").count(), 2, "{drawn}");
        assert!(drawn.contains("guest to network: the first packet again after 90 ms"));
        assert!(draw(&outage(&[1])).is_err());
    }
}
