//! What a packet costs in grant copies: Xen's operations, and how often a byte is copied.

use crate::picture::{self, BLUE, ORANGE, Side};
use crate::table;
use anyhow::Result;

/// What one path and size gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Path and bytes of a frame.
    pub name: String,
    /// Operations of grant copy a packet.
    pub operations: f64,
    /// How often a byte of the packet is copied.
    pub copies: f64,
}

/// The rows of the table of operations in `document` (docs/benchmarks.md).
pub fn rows(document: &str) -> Result<Vec<Row>> {
    let rows = table::rows(document, "path and frame")?.into_iter();
    let row = |cells: Vec<String>| {
        Ok(Row {
            operations: table::number(&cells[1])?,
            copies: table::number(&cells[2])?,
            name: cells[0].clone(),
        })
    };
    rows.map(row).collect()
}

/// Pixels: the picture's width, a row's height, and what is above the rows and below.
const WIDTH: i32 = 760;
const ROW: i32 = 42;
const TOP: i32 = 60;
const BOTTOM: i32 = 14;
/// Where the bars begin, and how long one is that stands for one.
const BARS: i32 = 200;
const LENGTH_OF_ONE: f64 = 100.0;
const BAR: i32 = 13;

/// Draws the rows. Returns the picture as SVG.
pub fn draw(rows: &[Row]) -> Result<String> {
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    picture::draw((WIDTH, height), |picture| {
        picture.key("operations of Xen's grant copy a packet", (BARS, 24), BLUE)?;
        picture.key("times a byte is copied", (BARS + 290, 24), ORANGE)?;
        for (row, y) in rows.iter().zip((TOP..).step_by(ROW as usize)) {
            picture.text(&row.name, (BARS - 12, y + BAR), Side::Left, 13)?;
            let bars = [(row.operations, BLUE), (row.copies, ORANGE)];
            for ((value, color), y) in bars.into_iter().zip([y, y + BAR + 1]) {
                let length = (value * LENGTH_OF_ONE).round() as i32;
                let figure = format!("{value:.2}");
                picture.bar_of((BARS, y), (length, BAR), color, (&figure, 12))?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_figure() {
        let document = "| path and frame | operations | copies of a byte |\n|---|---|---|\n| guest -> wire, 64 B | 1.00 | 1.00 |\n| guest -> guest, 4096 B | 3.25 | 1.06 |\n";
        let drawn = draw(&rows(document).unwrap()).unwrap();
        assert_eq!(picture::test::widths(&drawn, BAR), [100, 100, 325, 106]);
        assert!(drawn.contains("guest -&gt; guest, 4096 B"), "{drawn}");
    }
}
