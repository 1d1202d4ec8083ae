//! The report as a picture: for each work the processor time of a packet, the kernel's and ours, and what became of the rate.

use super::report::{PER_PACKET, RATE, Report, Row};
use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels: the picture's width, a row's height, and what is above the rows and below.
const WIDTH: i32 = 1000;
const ROW: i32 = 46;
const TOP: i32 = 84;
const BOTTOM: i32 = 20;
/// Where the bars of processor time begin and how long the longest is; those of round trips, which have waiting in them, may be cut.
const TIME: (i32, i32) = (220, 360);
/// Where the bars of the rate begin, and how long one is that is as long as the kernel's.
const RATES: (i32, i32) = (680, 150);
/// A rate's bar ends here at the latest, beyond twice the kernel's.
const RATE_END: i32 = WIDTH - 20;
const BAR: i32 = 15;

const KERNEL: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const NETBACK: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);

/// Write the picture to `file`.
pub fn draw(report: &Report, file: &Path) -> Result<()> {
    let rows = &report.0;
    let height = TOP + ROW * rows.len() as i32 + BOTTOM;
    let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    head(&area, height)?;
    let most = rows
        .iter()
        .filter(|row| !row.is_round_trip())
        .flat_map(|row| row.means(PER_PACKET))
        .fold(f64::MIN_POSITIVE, f64::max);
    for (row, y) in rows.iter().zip((TOP..).step_by(ROW as usize)) {
        draw_row(&area, row, y, most)?;
    }
    area.present()?;
    Ok(())
}

/// What the bars are, and the line that the rates are held against.
fn head(area: &Area, height: i32) -> Result<()> {
    let title = |text: &str, x| write(area, text, (x, 22), HPos::Left, 15);
    title(
        "driver domain's CPU time, µs a packet: less is better",
        TIME.0,
    )?;
    title("rate, netback's / kernel's", RATES.0)?;
    for (text, color, x) in [
        ("kernel netback and bridge", KERNEL, TIME.0),
        ("netback", NETBACK, TIME.0 + 210),
    ] {
        bar(area, (x, 42), BAR, color)?;
        write(area, text, (x + BAR + 6, 42 + BAR / 2), HPos::Left, 13)?;
    }
    let same = RATES.0 + RATES.1;
    let line = [(same, TOP - 14), (same, height - BOTTOM)];
    area.draw(&PathElement::new(line, KERNEL))?;
    write(area, "1", (same, TOP - 24), HPos::Center, 13)
}

fn draw_row(area: &Area, row: &Row, y: i32, most: f64) -> Result<()> {
    let name = format!("{}, {}", row.work, row.direction);
    write(area, &name, (TIME.0 - 12, y + BAR), HPos::Right, 13)?;
    let times = row.means(PER_PACKET).into_iter().zip([KERNEL, NETBACK]);
    for ((time, color), y) in times.zip([y, y + BAR]) {
        let length = ((time / most * f64::from(TIME.1)) as i32).min(TIME.1);
        bar(area, (TIME.0, y), length, color)?;
        let end = (TIME.0 + length + 6, y + BAR / 2);
        write(area, &format!("{time:.1}"), end, HPos::Left, 12)?;
    }
    let ratio = row.ratio(RATE);
    let length = ((ratio * f64::from(RATES.1)) as i32).min(RATE_END - RATES.0);
    bar(area, (RATES.0, y + BAR / 2), length, NETBACK)?;
    let note = if row.is_round_trip() {
        "round trip: less is better"
    } else {
        ""
    };
    let text = format!("{ratio:.2} {note}");
    let below = (RATES.0 + 6, y + BAR / 2 + BAR + 8);
    write(area, text.trim_end(), below, HPos::Left, 12)
}

/// A bar of `length`, its upper left corner at `at`.
fn bar(area: &Area, at: (i32, i32), length: i32, color: RGBColor) -> Result<()> {
    let corners = [at, (at.0 + length, at.1 + BAR - 1)];
    Ok(area.draw(&Rectangle::new(corners, color.filled()))?)
}

/// `text` beside `at`, centred on its height.
fn write(area: &Area, text: &str, at: (i32, i32), side: HPos, size: i32) -> Result<()> {
    let style = ("sans-serif", size)
        .into_font()
        .color(&BLACK)
        .pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}
