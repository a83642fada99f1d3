//! The direct map as a picture: each 2M block a cell, row by row from physical address 0 on.

use std::fmt::Write;

use super::results::{CellKind, Run};

/// Cells of a row, 256 MiB; with more than 64 GiB more, so that a picture is about twice as high as wide.
fn columns(cells: u64) -> u64 {
    let mut columns = 128;
    while columns * columns * 4 < cells {
        columns *= 2;
    }
    columns
}

/// The kinds of cells, with colour and meaning. What costs more translations is darker, so it is readable in grey too; the colours are apart for
/// colour-blind readers (blues against orange and purple).
pub const KINDS: [(CellKind, &str, &str); 6] = [
    (CellKind::In1g, "#c3dff2", "in a 1G leaf"),
    (CellKind::In2m, "#4a9fd8", "a 2M leaf"),
    (CellKind::In4k, "#c7500a", "512 leaves of 4K"),
    (CellKind::Partly, "#4d004b", "4K leaves and holes"),
    (CellKind::Hidden, "#ffffff", "hidden"),
    (CellKind::NoRam, "#b8b8b8", "no RAM"),
];

/// A picture, `width` pixels wide on the page.
pub fn draw(map: &[Run], title: &str, width: u32) -> String {
    let cells: u64 = map.iter().map(|run| run.blocks).sum();
    let columns = columns(cells);
    let rows = cells.div_ceil(columns).max(1);
    let height = u64::from(width) * rows / columns;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{title}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {columns} {rows}\" preserveAspectRatio=\"none\" shape-rendering=\"crispEdges\"><title>{title}</title>"
    );
    for (kind, colour, _) in KINDS {
        let mut path = String::new();
        let mut at = 0;
        for run in map {
            if run.kind == kind {
                stroke(&mut path, at, run.blocks, columns);
            }
            at += run.blocks;
        }
        if !path.is_empty() {
            // A path of horizontal strokes, one high.
            let _ = write!(svg, "<path stroke=\"{colour}\" d=\"{path}\"/>");
        }
    }
    svg + "</svg>"
}

/// Strokes over so many cells from one on, row by row.
fn stroke(path: &mut String, mut at: u64, mut left: u64, columns: u64) {
    while left > 0 {
        let (row, column) = (at / columns, at % columns);
        let here = left.min(columns - column);
        // Writing to a string cannot fail.
        let _ = write!(path, "M{column} {row}.5h{here}");
        at += here;
        left -= here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_over_the_end_of_a_row_is_two_strokes() {
        let map = [
            Run {
                kind: CellKind::In1g,
                blocks: 120,
            },
            Run {
                kind: CellKind::Hidden,
                blocks: 16,
            },
        ];
        let svg = draw(&map, "a map", 128);
        assert!(svg.contains("d=\"M0 0.5h120\""), "{svg}");
        assert!(svg.contains("d=\"M120 0.5h8M0 1.5h8\""), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 128 2\"") && svg.contains("aria-label=\"a map\""));
    }

    #[test]
    fn pictures_of_large_machines_stay_in_shape() {
        assert_eq!(columns(32 * 1024), 128);
        assert_eq!(columns(512 * 1024), 512);
    }
}
