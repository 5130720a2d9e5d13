//! The bench's lines as a table: each number with the spread of its runs.

use crate::bench::numbers::print_table;

/// Prints what the lines `bench NAME = VALUE` say, in the order in which the names came first.
pub fn print(title: &str, lines: &[String]) {
    let rows: Vec<Vec<String>> = collect(lines)
        .into_iter()
        .map(|(name, mut values)| {
            values.sort_by(f64::total_cmp);
            let at = |index: usize| values.get(index).map_or_else(String::new, |value| format!("{value:.2}"));
            vec![name, values.len().to_string(), at(0), at(values.len() / 2), at(values.len() - 1)]
        })
        .collect();
    print_table(title, &["what", "runs", "least", "median", "most"], &rows);
}

fn collect(lines: &[String]) -> Vec<(String, Vec<f64>)> {
    let mut found: Vec<(String, Vec<f64>)> = Vec::new();
    let told = lines.iter().filter_map(|line| line.strip_prefix("bench ")?.rsplit_once(" = "));
    for (name, value) in told {
        let Ok(value) = value.parse() else { continue };
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => found.push((name.to_owned(), vec![value])),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_number_come_together() {
        let lines = ["up x", "bench a, ms = 2.5", "bench b = 1", "bench a, ms = 1.5"].map(str::to_owned);
        assert_eq!(collect(&lines), [("a, ms".to_owned(), vec![2.5, 1.5]), ("b".to_owned(), vec![1.0])]);
    }
}
