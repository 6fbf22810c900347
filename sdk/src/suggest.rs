//! "Did you mean …": the known word that is nearest to a mistyped one.

/// The known word within a third of the length of `word`, if one is; the first of equals.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let within = (word.chars().count() / 3).max(1);
    let ranked = known.into_iter().map(|candidate| (distance(word, candidate), candidate));
    ranked.filter(|(d, _)| *d <= within).min_by_key(|(d, _)| *d).map(|(_, candidate)| candidate)
}

/// ` (did you mean "…"?)`, or nothing.
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|near| format!(" (did you mean {near:?}?)")).unwrap_or_default()
}

/// Letters to insert, delete, replace or swap with their neighbour; `-` and `_` count as equal.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().map(fold).collect(), b.chars().map(fold).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near_and_nothing_else() {
        let known = ["data_dir", "name", "listen"];
        assert_eq!(nearest("data-dir", known), Some("data_dir"));
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("nmae", known), Some("name"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(hint("nam", known), " (did you mean \"name\"?)");
    }
}
