//! Kernel netback and netback side by side: for each work the processor time of a packet, and what became of the rate.

use crate::picture::{self, BLUE, GREY, Picture, Side, part};
use crate::table;
use anyhow::Result;

/// What one work gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was done, and in which direction.
    pub name: String,
    /// Microseconds of processor time a packet, the kernel's and netback's.
    pub cpu: [f64; 2],
    /// netback's rate by the kernel's.
    pub rate: f64,
    /// The rate is a round trip's time: less is better, and processor time is of another order than a packet's in a stream.
    pub is_round_trip: bool,
}

/// The rows of the first table of works in `document` (docs/performance.md, as `cargo xtask xen compare` prints it).
pub fn rows(document: &str) -> Result<Vec<Row>> {
    let rows = table::rows(document, "work")?.into_iter();
    let row = |cells: Vec<String>| {
        Ok(Row {
            cpu: [table::number(&cells[4])?, table::number(&cells[5])?],
            rate: table::number(&cells[3])?,
            is_round_trip: cells[1].contains("round trip"),
            name: cells[0].clone(),
        })
    };
    rows.map(row).collect()
}

/// Pixels: the picture's width, a row's height, and what is above the rows and below.
const WIDTH: i32 = 1000;
const ROW: i32 = 46;
const TOP: i32 = 84;
const BOTTOM: i32 = 20;
/// Where the bars of processor time begin, and how long the longest is.
const TIME: (i32, i32) = (220, 360);
/// Where the bars of the rate begin, and how long the longest is.
const RATES: (i32, i32) = (680, 260);
const BAR: i32 = 14;

/// Draws the rows. Returns the picture as SVG.
pub fn draw(rows: &[Row]) -> Result<String> {
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    let streams = || rows.iter().filter(|row| !row.is_round_trip);
    let most_time = longest(streams().flat_map(|row| row.cpu));
    let most_rate = longest(rows.iter().map(|row| row.rate));
    picture::draw((WIDTH, height), |picture| {
        head(picture, height, most_rate)?;
        for (row, y) in rows.iter().zip((TOP..).step_by(ROW as usize)) {
            // A round trip's bars have a scale of their own, or the streams' would be too short to read.
            let most_time = match row.is_round_trip {
                true => longest(row.cpu.into_iter()),
                false => most_time,
            };
            draw_row(picture, row, y, most_time, most_rate)?;
        }
        Ok(())
    })
}

fn longest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::MIN_POSITIVE, f64::max)
}

/// What the bars are, and the line that the rates are held against.
fn head(picture: &Picture, height: i32, most_rate: f64) -> Result<()> {
    let title = |text, x| picture.text(text, (x, 22), Side::Right, 15);
    title(
        "driver domain's CPU time, µs a packet: less is better",
        TIME.0,
    )?;
    title("rate, netback's / kernel's", RATES.0)?;
    picture.key("kernel netback and bridge", (TIME.0, 49), GREY)?;
    picture.key("netback", (TIME.0 + 210, 49), BLUE)?;
    let same = RATES.0 + part(1.0, most_rate, RATES.1);
    picture.line(&[(same, TOP - 14), (same, height - BOTTOM)], GREY)?;
    picture.text("1", (same, TOP - 24), Side::Middle, 13)
}

fn draw_row(picture: &Picture, row: &Row, y: i32, most_time: f64, most_rate: f64) -> Result<()> {
    let name = (TIME.0 - 12, y + BAR);
    picture.text(&row.name, name, Side::Left, 13)?;
    if row.is_round_trip {
        picture.text(
            "scale of its own",
            (name.0, y + 2 * BAR + 2),
            Side::Left,
            11,
        )?;
    }
    for ((time, color), y) in row.cpu.into_iter().zip([GREY, BLUE]).zip([y, y + BAR + 1]) {
        let size = (part(time, most_time, TIME.1), BAR);
        picture.bar_of((TIME.0, y), size, color, (&format!("{time:.1}"), 12))?;
    }
    let length = part(row.rate, most_rate, RATES.1);
    picture.bar((RATES.0, y + BAR / 2), (length, BAR), BLUE)?;
    let note = match row.is_round_trip {
        true => format!("{:.2} round trip: less is better", row.rate),
        false => format!("{:.2}", row.rate),
    };
    let below = (RATES.0 + 6, y + BAR / 2 + BAR + 8);
    picture.text(&note, below, Side::Right, 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, cpu: [f64; 2], rate: f64) -> Row {
        Row {
            name: name.into(),
            cpu,
            rate,
            is_round_trip: name == "ping",
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_figure() {
        let rows = [
            row("frames", [16.0, 8.0], 2.0),
            row("TCP", [4.0, 2.0], 0.5),
            row("ping", [54.7, 109.4], 0.75),
        ];
        let lengths = picture::test::widths(&draw(&rows).unwrap(), BAR);
        // The two squares of the key come first, and a row's rate after its times.
        let expected = [14, 14, 360, 180, 260, 90, 45, 65, 180, 360, 98];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn rows_are_read_off_the_table_that_compare_prints() {
        let document = "| work | rate, kernel | netback | ratio | CPU us a packet, kernel | netback | ratio |\n|---|---|---|---|---|---|---|\n\
                        | frames | 100 packets/s | 200 | 2.00 | 16.0 | 8.0 | 0.50 |\n| ping | 0.4 ms round trip | 0.3 | 0.75 | 54.7 | 109.4 | 2.00 |\n";
        let expected = [
            row("frames", [16.0, 8.0], 2.0),
            row("ping", [54.7, 109.4], 0.75),
        ];
        assert_eq!(rows(document).unwrap(), expected);
    }
}
