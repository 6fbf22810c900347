//! "Did you mean …": the known word that is nearest to a mistyped one.

use strsim::osa_distance;

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
    let (a, b): (String, String) = (a.chars().map(fold).collect(), b.chars().map(fold).collect());
    osa_distance(&a, &b)
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
