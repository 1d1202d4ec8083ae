//! What moving from plain dom0 networking brings: rates and processor time of three set-ups, held against the kernel's netback in dom0.

use crate::picture::{self, BLUE, GREY, ORANGE, Picture, Side, part};
use crate::table;
use anyhow::Result;
use plotters::style::RGBColor;

/// What one work gave in three set-ups, each figure divided by that of the kernel's netback in dom0.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was done, and in which direction.
    pub name: String,
    /// Processor time a packet, dom0's included, in the order of `SET_UPS`.
    pub cpu: [f64; 3],
    /// Rates, in the order of `SET_UPS`.
    pub rate: [f64; 3],
    /// The rate is a round trip's time: less is better.
    pub is_round_trip: bool,
}

/// What is drawn, and in which colour; also the order of the table's columns.
const SET_UPS: [(&str, RGBColor); 3] = [
    ("kernel netback in a driver domain", GREY),
    ("netback in dom0", ORANGE),
    ("netback in a driver domain", BLUE),
];

impl Row {
    /// Divides the figures of four set-ups by the first, the kernel's netback in dom0; the others are in the order of `SET_UPS`.
    pub fn of(name: String, rate: [f64; 4], cpu: [f64; 4], is_round_trip: bool) -> Self {
        let ratios = |[kernel, others @ ..]: [f64; 4]| others.map(|figure| figure / kernel);
        Self {
            name,
            cpu: ratios(cpu),
            rate: ratios(rate),
            is_round_trip,
        }
    }
}

/// Reads the rows of the first table with four set-ups in `document`, which is as `cargo xtask xen compare --baseline both` prints it.
pub fn rows(document: &str) -> Result<Vec<Row>> {
    let rows = table::rows(document, "work, four set-ups")?.into_iter();
    let row = |cells: Vec<String>| {
        let four = |from: usize| -> Result<[f64; 4]> {
            let number = |n: usize| table::number(&cells[from + n]);
            Ok([number(0)?, number(1)?, number(2)?, number(3)?])
        };
        let is_round_trip = cells[1].contains("round trip");
        Ok(Row::of(cells[0].clone(), four(1)?, four(5)?, is_round_trip))
    };
    rows.map(row).collect()
}

/// Pixels: the picture's width, a row's height, and what is above the rows and below.
const WIDTH: i32 = 1000;
const ROW: i32 = 52;
const TOP: i32 = 96;
const BOTTOM: i32 = 16;
/// Where the bars of each panel begin, and how long its longest is.
const TIME: (i32, i32) = (220, 330);
const RATES: (i32, i32) = (620, 330);
const BAR: i32 = 12;

/// Draws the rows. Returns the picture as SVG.
pub fn draw(rows: &[Row]) -> Result<String> {
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    let most = |ratios: fn(&Row) -> [f64; 3]| rows.iter().flat_map(ratios).fold(1.0, f64::max);
    let (most_time, most_rate) = (most(|row| row.cpu), most(|row| row.rate));
    picture::draw((WIDTH, height), |picture| {
        for ((name, color), x) in SET_UPS.into_iter().zip([220, 500, 680]) {
            picture.key(name, (x, 22), color)?;
        }
        head(
            picture,
            "CPU time a packet: less is better",
            TIME,
            most_time,
            height,
        )?;
        head(picture, "rate: more is better", RATES, most_rate, height)?;
        for (row, y) in rows.iter().zip((TOP..).step_by(ROW as usize)) {
            picture.text(&row.name, (TIME.0 - 12, y + BAR), Side::Left, 13)?;
            if row.is_round_trip {
                let below = (TIME.0 - 12, y + 2 * BAR + 4);
                picture.text("round trip: less is better", below, Side::Left, 11)?;
            }
            bars(picture, row.cpu, (TIME, y), most_time)?;
            bars(picture, row.rate, (RATES, y), most_rate)?;
        }
        Ok(())
    })
}

/// A panel's title, and the line that its bars are held against.
fn head(
    picture: &Picture,
    title: &str,
    (x, length): (i32, i32),
    most: f64,
    height: i32,
) -> Result<()> {
    picture.text(title, (x, 50), Side::Right, 15)?;
    let same = x + part(1.0, most, length);
    picture.line(&[(same, TOP - 12), (same, height - BOTTOM)], GREY)?;
    picture.text(
        "1 = kernel netback in dom0",
        (same, TOP - 22),
        Side::Middle,
        12,
    )
}

fn bars(
    picture: &Picture,
    ratios: [f64; 3],
    ((x, most_length), y): ((i32, i32), i32),
    most: f64,
) -> Result<()> {
    let places = (y..).step_by(BAR as usize + 2);
    for ((ratio, (_, color)), y) in ratios.into_iter().zip(SET_UPS).zip(places) {
        let size = (part(ratio, most, most_length), BAR);
        picture.bar_of((x, y), size, color, (&format!("{ratio:.2}"), 11))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_held_against_the_kernels_in_dom0() {
        let document = "| work, four set-ups | rate, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain | \
                        CPU us a packet, kernel in dom0 | kernel in driver domain | netback in dom0 | netback in driver domain |\n\
                        |---|---|---|---|---|---|---|---|---|\n\
                        | ping, guest to peer | 0.250 ms round trip | 0.500 | 0.375 | 0.125 | 100.0 | 150.0 | 200.0 | 50.0 |\n";
        let rows = rows(document).unwrap();
        let row = &rows[0];
        assert_eq!(row.name, "ping, guest to peer");
        assert!(row.is_round_trip);
        assert_eq!(row.cpu, [1.5, 2.0, 0.5]);
        assert_eq!(row.rate, [2.0, 1.5, 0.5]);
        let lengths = picture::test::widths(&draw(&rows).unwrap(), BAR);
        assert_eq!(lengths, [248, 330, 83, 330, 248, 83]);
    }
}
