//! Four set-ups in one table: each backend in dom0 and in a driver domain.

use super::report::{Figure, PER_PACKET_WITH_DOM0, RATE, Report, Row, Shown, rounded};
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The same works in both places, in the same order.
pub struct Baseline {
    pub dom0: Report,
    pub driver_domain: Report,
}

impl Baseline {
    /// Each work by its row in dom0, with its rates and its processor time a packet: of the kernel's backend in dom0, the kernel's in a
    /// driver domain, ours in dom0, ours in a driver domain.
    fn rows(&self) -> impl Iterator<Item = (&Row, [f64; 4], [f64; 4])> {
        let pairs = self.dom0.0.iter().zip(&self.driver_domain.0);
        pairs.map(|(dom0, driver)| {
            let four = |figure: Figure| {
                let ([kernel, netback], [kernel_apart, netback_apart]) =
                    (dom0.means(figure), driver.means(figure));
                [kernel, kernel_apart, netback, netback_apart]
            };
            (dom0, four(RATE), four(PER_PACKET_WITH_DOM0))
        })
    }

    /// The works' rows, as the picture shows them.
    fn picture(&self) -> Vec<figures::baseline::Row> {
        let row = |(row, rate, cpu): (&Row, _, _)| {
            let name = format!("{}, {}", row.work, row.direction);
            figures::baseline::Row::of(name, rate, cpu, row.is_round_trip())
        };
        self.rows().map(row).collect()
    }

    /// The works' rows as a Markdown table.
    fn table(&self) -> String {
        let mut text = String::from(
            "| work, four set-ups | rate, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain | \
             CPU us a packet, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for (row, rate, cpu) in self.rows() {
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

impl Shown for Baseline {
    fn json(&self) -> Value {
        let named = |[kernel, kernel_apart, netback, netback_apart]: [f64; 4]| {
            json!({
                "kernel_in_dom0": rounded(kernel),
                "kernel_in_driver_domain": rounded(kernel_apart),
                "netback_in_dom0": rounded(netback),
                "netback_in_driver_domain": rounded(netback_apart),
            })
        };
        let set_ups = self.rows().map(|(row, rate, cpu)| {
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

    fn text(&self) -> String {
        format!(
            "{}\nIn a driver domain:\n\n{}\nIn dom0:\n\n{}",
            self.table(),
            self.driver_domain.table(),
            self.dom0.table()
        )
    }

    fn svg(&self) -> Result<String> {
        figures::baseline::draw(&self.picture())
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::{Arrived, ProcessorTime, Sample};
    use super::*;

    fn report(kernel: f64, netback: f64) -> Report {
        let sample = |rate: f64| Sample {
            arrived: Arrived {
                rate,
                packets: 1e6,
                bytes: 1448e6,
            },
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
