//! Delta debugging (Zeller's ddmin): ever smaller parts of a list are tried alone, then left out.

/// The place of the first candidate that still fails, if one does.
pub type Test<'a, T, E> = &'a mut dyn FnMut(&[Vec<T>]) -> Result<Option<usize>, E>;

/// A list as short as can be found from which no single item can be left out, in its order. `test` gets lists to try;
/// the whole list is taken to fail.
pub fn fewest<T: Clone + PartialEq, E>(whole: Vec<T>, test: Test<'_, T, E>) -> Result<Vec<T>, E> {
    if whole.is_empty() || test(&[Vec::new()])?.is_some() {
        return Ok(Vec::new());
    }
    let (mut list, mut parts) = (whole, 2);
    while list.len() >= 2 {
        let mut candidates = candidates(&list, parts.min(list.len()));
        match test(&candidates)? {
            Some(place) => {
                let chosen = candidates.swap_remove(place);
                let was_part = chosen.len() <= list.len().div_ceil(parts);
                parts = if was_part { 2 } else { (parts - 1).max(2) };
                list = chosen;
            }
            None if parts >= list.len() => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    Ok(list)
}

/// Each part alone, then everything but each part.
fn candidates<T: Clone>(list: &[T], parts: usize) -> Vec<Vec<T>> {
    let bounds: Vec<(usize, usize)> =
        (0..parts).map(|n| (n * list.len() / parts, (n + 1) * list.len() / parts)).collect();
    let alone = bounds.iter().map(|(from, to)| list[*from..*to].to_vec());
    let without = bounds.iter().map(|(from, to)| [&list[..*from], &list[*to..]].concat());
    // Of two parts, each is what the other leaves.
    if parts == 2 { alone.collect() } else { alone.chain(without).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when all of `needed` are there. Answers the shortest list and how many were tried.
    fn search(length: u32, needed: &[u32]) -> (Vec<u32>, usize) {
        let mut tried = 0;
        let mut test = |candidates: &[Vec<u32>]| {
            tried += candidates.len();
            Ok::<_, ()>(candidates.iter().position(|list| needed.iter().all(|item| list.contains(item))))
        };
        let found = fewest((0..length).collect(), &mut test).unwrap();
        (found, tried)
    }

    #[test]
    fn what_is_needed_remains_in_its_order() {
        for needed in [&[][..], &[0], &[31], &[3, 17], &[0, 15, 31], &[5, 6, 7, 8]] {
            let (found, tried) = search(32, needed);
            assert_eq!(found, needed);
            assert!(tried < 150, "{needed:?} took {tried}");
        }
    }

    #[test]
    fn a_short_list_is_tried_too() {
        assert_eq!(search(1, &[0]).0, [0]);
        assert_eq!(search(2, &[1]).0, [1]);
        assert_eq!(search(0, &[]).0, [0; 0]);
    }

    #[test]
    fn when_nothing_can_be_tried_any_more_the_best_so_far_is_the_answer() {
        let mut none = |_: &[Vec<u32>]| Ok::<_, ()>(None);
        assert_eq!(fewest(vec![1, 2, 3], &mut none).unwrap(), [1, 2, 3]);
    }
}
