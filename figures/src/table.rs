//! Tables in Markdown documents.

use anyhow::{Context, Result, ensure};

/// The rows of the first table of `document` whose first column is called `name`: the cells of each, without blanks around them.
pub fn rows(document: &str, name: &str) -> Result<Vec<Vec<String>>> {
    let mut lines = document.lines();
    let head = lines
        .find(|line| cells(line).is_some_and(|cells| cells[0] == name))
        .with_context(|| format!("no table with a column {name:?}"))?;
    let columns = cells(head).map_or(0, |cells| cells.len());
    // The line of dashes says nothing.
    let body = lines.skip(1).map_while(cells);
    let rows: Vec<Vec<String>> = body.collect();
    ensure!(!rows.is_empty(), "the table {name:?} has no rows");
    for row in &rows {
        ensure!(row.len() == columns, "{columns} columns, but a row {row:?}");
    }
    Ok(rows)
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect(),
    )
}

/// The number that a cell begins with.
pub fn number(cell: &str) -> Result<f64> {
    let word = cell.split(' ').next().unwrap_or_default();
    word.parse()
        .with_context(|| format!("{cell:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_name_is_read_to_its_end() {
        let document = "text\n\n| a | b |\n|---|---|\n| x | 1.5 ms |\n| y | 2 |\n\n| a | b |\n|---|---|\n| z | 3 |\n";
        let rows = rows(document, "a").unwrap();
        assert_eq!(rows, [["x", "1.5 ms"], ["y", "2"]]);
        assert_eq!(number(&rows[0][1]).unwrap(), 1.5);
        assert!(number("-").is_err());
        assert!(super::rows(document, "c").is_err());
        assert!(super::rows("| a | b |\n|---|---|\n| x |\n", "a").is_err());
    }
}
