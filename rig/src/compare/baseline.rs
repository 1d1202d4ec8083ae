//! Four set-ups in one table: each backend in dom0 and in a driver domain.

use super::report::{Figure, PER_PACKET_WITH_DOM0, RATE, Report, rounded};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The same works in both places, in the same order.
pub struct Baseline {
    pub dom0: Report,
    pub driver_domain: Report,
}

impl Baseline {
    /// A figure of each work: the kernel's backend in dom0, the kernel's in a driver domain, ours in dom0, ours in a driver domain.
    fn rows(&self, figure: Figure) -> impl Iterator<Item = [f64; 4]> {
        let pairs = self.dom0.0.iter().zip(&self.driver_domain.0);
        pairs.map(move |(dom0, driver)| {
            let ([kernel, netback], [kernel_apart, netback_apart]) =
                (dom0.means(figure), driver.means(figure));
            [kernel, kernel_apart, netback, netback_apart]
        })
    }

    /// What `--json` prints.
    pub fn json(&self) -> Value {
        let named = |[kernel, kernel_apart, netback, netback_apart]: [f64; 4]| {
            json!({
                "kernel_in_dom0": rounded(kernel),
                "kernel_in_driver_domain": rounded(kernel_apart),
                "netback_in_dom0": rounded(netback),
                "netback_in_driver_domain": rounded(netback_apart),
            })
        };
        let figures = self.rows(RATE).zip(self.rows(PER_PACKET_WITH_DOM0));
        let rows = self.dom0.0.iter().zip(figures);
        let set_ups = rows.map(|(row, (rate, cpu))| {
            json!({
                "work": row.work,
                "direction": row.direction,
                "rate_unit": row.unit,
                "rate": named(rate),
                "cpu_us_per_packet": named(cpu),
            })
        });
        json!({
            "set_ups": set_ups.collect::<Vec<_>>(),
            "driver_domain": self.driver_domain.json(),
            "dom0": self.dom0.json(),
        })
    }

    /// As it is drawn.
    pub fn picture(&self) -> Vec<figures::baseline::Row> {
        let held_against_the_first = |figures: [f64; 4]| [1, 2, 3].map(|n| figures[n] / figures[0]);
        let figures = self.rows(RATE).zip(self.rows(PER_PACKET_WITH_DOM0));
        let rows = self.dom0.0.iter().zip(figures);
        rows.map(|(row, (rate, cpu))| figures::baseline::Row {
            name: format!("{}, {}", row.work, row.direction),
            cpu: held_against_the_first(cpu),
            rate: held_against_the_first(rate),
            is_round_trip: row.is_round_trip(),
        })
        .collect()
    }

    /// The table as a person reads it, and as a document takes it in.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| work, four set-ups | rate, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain | \
             CPU us a packet, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let figures = self.rows(RATE).zip(self.rows(PER_PACKET_WITH_DOM0));
        for (row, (rate, cpu)) in self.dom0.0.iter().zip(figures) {
            let digits = row.digits();
            write!(
                text,
                "| {}, {} | {:.digits$} {} |",
                row.work, row.direction, rate[0], row.unit
            )
            .expect("a string takes all");
            rate[1..]
                .iter()
                .for_each(|rate| write!(text, " {rate:.digits$} |").expect("a string takes all"));
            cpu.iter()
                .for_each(|cpu| write!(text, " {cpu:.1} |").expect("a string takes all"));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Row;
    use super::super::work::{ProcessorTime, Sample};
    use super::*;

    fn report(kernel: f64, netback: f64) -> Report {
        let sample = |rate: f64| Sample {
            rate,
            packets: 1e6,
            bytes: 1448e6,
            time: ProcessorTime {
                backend: 0.0,
                with_dom0: rate / 100.0,
            },
        };
        Report(vec![Row {
            work: "TCP".into(),
            direction: "guest to peer".into(),
            unit: "Mbit/s",
            kernel: vec![sample(kernel)],
            netback: vec![sample(netback)],
        }])
    }

    #[test]
    fn a_row_has_all_four_by_backend_and_place() {
        let baseline = Baseline {
            dom0: report(100.0, 300.0),
            driver_domain: report(200.0, 400.0),
        };
        let last = baseline.table().lines().last().map(String::from);
        let expected =
            "| TCP, guest to peer | 100 Mbit/s | 200 | 300 | 400 | 1.0 | 2.0 | 3.0 | 4.0 |";
        assert_eq!(last.as_deref(), Some(expected));
        let read_back = figures::baseline::rows(&baseline.table()).unwrap();
        assert_eq!(read_back, baseline.picture());
        let json = baseline.json();
        assert_eq!(json["set_ups"][0]["rate"]["netback_in_dom0"], 300.0);
        assert_eq!(
            json["set_ups"][0]["cpu_us_per_packet"]["kernel_in_driver_domain"],
            2.0
        );
    }
}
