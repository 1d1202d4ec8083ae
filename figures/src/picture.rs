//! What every picture is drawn with: bars, lines and words on white.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The grey of what is compared with, of scales and frames.
pub const GREY: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
/// The blue of netback.
pub const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
/// The orange of a second figure of netback.
pub const ORANGE: RGBColor = RGBColor(0xd9, 0x82, 0x2b);

/// On which side of its place a text stands.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    /// It ends there.
    Left,
    /// Its middle is there.
    Middle,
    /// It begins there.
    Right,
}

/// A picture in the making. Places are pixels from the upper left corner.
pub struct Picture<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Picture<'_> {
    /// A bar with its upper left corner at `(x, y)`.
    pub fn bar(
        &self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        color: RGBColor,
    ) -> Result<()> {
        let corners = [(x, y), (x + width, y + height)];
        Ok(self.0.draw(&Rectangle::new(corners, color.filled()))?)
    }

    /// A bar like [`Self::bar`], with the figure that it stands for behind its end.
    pub fn bar_of(
        &self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        color: RGBColor,
        (figure, size): (&str, i32),
    ) -> Result<()> {
        self.bar((x, y), (width, height), color)?;
        let end = (x + width + 6, y + height / 2);
        self.text(figure, end, Side::Right, size)
    }

    /// Draws a line through `points`, in pixels from the upper left corner.
    pub fn line(&self, points: &[(i32, i32)], color: RGBColor) -> Result<()> {
        Ok(self.0.draw(&PathElement::new(points.to_vec(), color))?)
    }

    /// One line of text on the given side of `at`, centred on its height.
    pub fn text(&self, text: &str, at: (i32, i32), side: Side, size: i32) -> Result<()> {
        let side = match side {
            Side::Left => HPos::Right,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Left,
        };
        let style = ("sans-serif", size)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(side, VPos::Center));
        Ok(self.0.draw(&Text::new(text.to_owned(), at, style))?)
    }

    /// A coloured square with what the colour stands for.
    pub fn key(&self, text: &str, (x, y): (i32, i32), color: RGBColor) -> Result<()> {
        self.bar((x, y - 7), (14, 14), color)?;
        self.text(text, (x + 20, y), Side::Right, 13)
    }
}

/// How long a bar of `value` is where one of `most` is `length` pixels long.
pub fn part(value: f64, most: f64, length: i32) -> i32 {
    (value / most * f64::from(length)).round() as i32
}

/// Draws a picture of `width` times `height` pixels. Returns it as SVG.
pub fn draw(
    (width, height): (i32, i32),
    contents: impl FnOnce(&Picture) -> Result<()>,
) -> Result<String> {
    let mut text = String::new();
    {
        let size = (width as u32, height as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let picture = Picture(area);
        contents(&picture)?;
        picture.0.present()?;
    }
    Ok(text + "\n")
}

#[cfg(test)]
/// What tests of pictures look at.
pub mod test {
    /// The widths of the bars of one height in a picture, in the order in which they were drawn.
    pub fn widths(svg: &str, height: i32) -> Vec<i32> {
        let height = format!(" height=\"{height}\" ");
        let bars = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && line.contains(&height));
        let width = |line: &str| {
            line.split_once(" width=\"")?
                .1
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        bars.filter_map(width).collect()
    }
}
