//! Samples become rows: means of the boots, ratios, and how far the boots were apart.

use super::work::Sample;
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a comparison came to, in each form in which it is shown.
pub trait Shown {
    /// The document that `--json` prints.
    fn json(&self) -> Value;
    /// The text that is printed otherwise: tables as a person reads them, and as a document takes them in.
    fn text(&self) -> String;
    /// The picture that `--plot` writes, as SVG.
    fn svg(&self) -> Result<String>;
}

/// All works, in order.
pub struct Report(pub Vec<Row>);

/// One work; a sample for each boot.
pub struct Row {
    pub work: String,
    pub direction: String,
    pub unit: &'static str,
    pub kernel: Vec<Sample>,
    pub netback: Vec<Sample>,
}

/// What is read off a sample.
pub type Figure = fn(&Sample) -> f64;
/// The rate of a work, in its unit.
pub const RATE: Figure = |sample| sample.arrived.rate;
/// Microseconds of processor time a packet.
pub const PER_PACKET: Figure = |sample| sample.time.backend * 1e6 / sample.arrived.packets;
/// Microseconds of processor time a packet, dom0's included.
pub const PER_PACKET_WITH_DOM0: Figure =
    |sample| sample.time.with_dom0 * 1e6 / sample.arrived.packets;
/// Nanoseconds of processor time a byte.
const PER_BYTE: Figure = |sample| sample.time.backend * 1e9 / sample.arrived.bytes;

impl Row {
    /// The rate is a time: less is better.
    pub fn is_round_trip(&self) -> bool {
        self.unit.starts_with("ms")
    }

    /// Kernel's and ours, the means of the boots.
    pub fn means(&self, figure: Figure) -> [f64; 2] {
        [&self.kernel, &self.netback].map(|samples| mean(samples, figure))
    }

    /// Decimals of a rate: milliseconds want them, the others are in the hundreds and thousands.
    pub fn digits(&self) -> usize {
        if self.is_round_trip() { 3 } else { 0 }
    }

    /// Ours as a part of the kernel's.
    pub fn ratio(&self, figure: Figure) -> f64 {
        let [kernel, netback] = self.means(figure);
        netback / kernel
    }

    /// The widest gap between boots of the same backend, of rate or processor time, in percent of their mean.
    fn spread_percent(&self) -> f64 {
        let mut widest = 0.0_f64;
        for samples in [&self.kernel, &self.netback] {
            for figure in [RATE, PER_PACKET] {
                let values = || samples.iter().map(figure);
                let gap = values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min);
                widest = widest.max(100.0 * gap / mean(samples, figure));
            }
        }
        widest
    }
}

fn mean(samples: &[Sample], figure: Figure) -> f64 {
    samples.iter().map(figure).sum::<f64>() / samples.len() as f64
}

pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Shown for Report {
    fn json(&self) -> Value {
        let row = |row: &Row| {
            let [kernel_rate, netback_rate] = row.means(RATE).map(rounded);
            let [kernel_cpu, netback_cpu] = row.means(PER_PACKET).map(rounded);
            json!({
                "work": row.work,
                "direction": row.direction,
                "kernel_rate": kernel_rate,
                "netback_rate": netback_rate,
                "rate_unit": row.unit,
                "kernel_cpu_us_per_packet": kernel_cpu,
                "netback_cpu_us_per_packet": netback_cpu,
                "repeat_spread_percent": rounded(row.spread_percent()),
            })
        };
        self.0.iter().map(row).collect()
    }

    fn text(&self) -> String {
        self.table()
    }

    fn svg(&self) -> Result<String> {
        figures::performance::draw(&self.picture())
    }
}

impl Report {
    /// The report's rows, as the picture shows them.
    fn picture(&self) -> Vec<figures::performance::Row> {
        let row = |row: &Row| figures::performance::Row {
            name: format!("{}, {}", row.work, row.direction),
            cpu: row.means(PER_PACKET),
            rate: row.ratio(RATE),
            is_round_trip: row.is_round_trip(),
        };
        self.0.iter().map(row).collect()
    }

    /// The report's rows as a Markdown table.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| work | rate, kernel | netback | ratio | CPU us a packet, kernel | netback | ratio | CPU ns a byte, kernel | netback | boots differ |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.0 {
            let (rate, packet, byte) =
                (row.means(RATE), row.means(PER_PACKET), row.means(PER_BYTE));
            let digits = row.digits();
            writeln!(
                text,
                "| {}, {} | {:.digits$} {} | {:.digits$} | {:.2} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} | {:.0} % |",
                row.work,
                row.direction,
                rate[0],
                row.unit,
                rate[1],
                row.ratio(RATE),
                packet[0],
                packet[1],
                row.ratio(PER_PACKET),
                byte[0],
                byte[1],
                row.spread_percent(),
            )
            .expect("a string takes all");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::{Arrived, ProcessorTime};
    use super::*;

    fn report() -> Report {
        let sample = |rate, cpu_us_per_packet| Sample {
            arrived: Arrived {
                rate,
                packets: 1e6,
                bytes: 60e6,
            },
            time: ProcessorTime {
                backend: cpu_us_per_packet,
                with_dom0: 0.0,
            },
        };
        Report(vec![Row {
            work: "60 B frames".into(),
            direction: "guest to peer".into(),
            unit: "packets/s",
            kernel: vec![sample(16000.0, 20.0), sample(16000.0, 20.0)],
            netback: vec![sample(19000.0, 9.0), sample(21000.0, 11.0)],
        }])
    }

    #[test]
    fn a_row_has_the_means_and_the_widest_gap() {
        let report = report();
        assert_eq!(
            report.json(),
            json!([{
                "work": "60 B frames",
                "direction": "guest to peer",
                "kernel_rate": 16000.0,
                "netback_rate": 20000.0,
                "rate_unit": "packets/s",
                "kernel_cpu_us_per_packet": 20.0,
                "netback_cpu_us_per_packet": 10.0,
                "repeat_spread_percent": 20.0,
            }])
        );
        let last = report.table().lines().last().map(String::from);
        let expected = "| 60 B frames, guest to peer | 16000 packets/s | 20000 | 1.25 | 20.0 | 10.0 | 0.50 | 333.3 | 166.7 | 20 % |";
        assert_eq!(last.as_deref(), Some(expected));
    }

    #[test]
    fn the_picture_has_what_the_table_has() {
        let read_back = figures::performance::rows(&report().table()).unwrap();
        assert_eq!(read_back, report().picture());
    }
}
