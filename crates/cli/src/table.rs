//! patronictl's table (contract 5.3): a title in the top border, columns aligned one by one.
//! Leaves which columns there are to the commands.

/// How a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table to be drawn.
#[derive(Debug, Default)]
pub(crate) struct Table {
    title: Option<String>,
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: Option<String>) -> Self {
        Self { title, ..Self::default() }
    }

    pub(crate) fn column(&mut self, name: &str, align: Align) {
        self.columns.push((name.to_owned(), align));
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ending in a line break.
    pub(crate) fn draw(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|i| self.width(i)).collect();
        let rule = rule(&widths);
        let mut text = self.top(&rule);
        let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        // Names stand like their cells, as PrettyTable draws them.
        self.push_row(&mut text, &widths, &names);
        text.push_str(&rule);
        // A cell of several lines needs rules to tell the rows apart.
        let tall = self.rows.iter().flatten().any(|cell| cell.contains('\n'));
        for (index, row) in self.rows.iter().enumerate() {
            if tall && index > 0 {
                text.push_str(&rule);
            }
            self.push_row(&mut text, &widths, row);
        }
        text.push_str(&rule);
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].as_str());
        let cells = cells.chain(std::iter::once(self.columns[column].0.as_str()));
        cells.flat_map(str::lines).map(|line| line.chars().count()).max().unwrap_or(0)
    }

    /// The top border with the title laid over it.
    fn top(&self, rule: &str) -> String {
        let Some(title) = &self.title else { return rule.to_owned() };
        let room = rule.trim_end().len().saturating_sub(2);
        let header: String = format!(" {title} ").chars().take(room).collect();
        let rest: String = rule.chars().skip(1 + header.chars().count()).collect();
        format!("+{header}{rest}")
    }

    fn push_row(&self, text: &mut String, widths: &[usize], cells: &[String]) {
        let height = cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
        for line in 0..height {
            for (index, cell) in cells.iter().enumerate() {
                let part = cell.lines().nth(line).unwrap_or_default();
                let width = widths[index];
                let cell = match self.columns[index].1 {
                    Align::Left => format!("| {part:<width$} "),
                    Align::Right => format!("| {part:>width$} "),
                };
                text.push_str(&cell);
            }
            text.push_str("|\n");
        }
    }
}

fn rule(widths: &[usize]) -> String {
    let mut text = String::new();
    for width in widths {
        text.push('+');
        text.push_str(&"-".repeat(width + 2));
    }
    text.push_str("+\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_as_patronictl_draws_it() {
        let mut table = Table::new(Some("Cluster: demo (77)".to_owned()));
        table.column("Member", Align::Left);
        table.column("Host", Align::Left);
        table.column("TL", Align::Right);
        table.row(vec!["pg-node1".into(), "127.0.0.1:15431".into(), "7".into()]);
        table.row(vec!["pg-node2".into(), "127.0.0.1:15432".into(), "12".into()]);
        assert_eq!(
            table.draw(),
            "\
+ Cluster: demo (77) --------+----+
| Member   | Host            | TL |
+----------+-----------------+----+
| pg-node1 | 127.0.0.1:15431 |  7 |
| pg-node2 | 127.0.0.1:15432 | 12 |
+----------+-----------------+----+
"
        );
    }

    #[test]
    fn tall_cells_get_rules_between_the_rows() {
        let mut table = Table::new(None);
        table.column("Tags", Align::Left);
        table.row(vec!["a: 1\nb: 2".into()]);
        table.row(vec![String::new()]);
        let text = table.draw();
        assert_eq!(text.matches("+------+").count(), 4, "{text}");
    }
}
