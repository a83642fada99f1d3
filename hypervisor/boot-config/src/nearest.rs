//! The known word nearest to a misspelled one.

/// Longest word looked at, in bytes. No known word is nearly as long, so a longer one has no neighbour.
const LONGEST: usize = 24;

/// Returns the word of `known` that `word` most likely meant, or `None` when none is near.
///
/// Near means: an edit distance (insert, delete, replace, and swap of two neighbours, each counted once; case is ignored)
/// of at most one for each three letters of the longer word. The distance is bounded work: words over 24 bytes are not
/// compared. Of equally near words the first counts.
///
/// ```
/// assert_eq!(boot_config::nearest("tgoether", ["seed", "together"]), Some("together"));
/// assert_eq!(boot_config::nearest("bananas", ["seed", "together"]), None);
/// ```
pub fn nearest<'k, K>(word: &str, known: impl IntoIterator<Item = &'k K>) -> Option<&'k str>
where
    K: AsRef<str> + ?Sized + 'k,
{
    let mut best: Option<(usize, &'k str)> = None;
    for candidate in known {
        let candidate = candidate.as_ref();
        let Some(distance) = distance(word.as_bytes(), candidate.as_bytes()) else {
            continue;
        };
        let allowed = word.len().max(candidate.len()).div_ceil(3);
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance; `None` when a word is empty or over [`LONGEST`].
fn distance(a: &[u8], b: &[u8]) -> Option<usize> {
    if a.is_empty() || b.is_empty() || a.len() > LONGEST || b.len() > LONGEST {
        return None;
    }
    let same = |i: usize, j: usize| match (a.get(i), b.get(j)) {
        (Some(x), Some(y)) => x.eq_ignore_ascii_case(y),
        _ => false,
    };
    // Three rows of the usual table: two letters back, one letter back, and the one being filled.
    let mut before = [0usize; LONGEST + 1];
    let mut last: [usize; LONGEST + 1] = core::array::from_fn(|column| column);
    for i in 0..a.len() {
        let mut row = [0usize; LONGEST + 1];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replace = last[j] + usize::from(!same(i, j));
            let mut cost = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && same(i, j - 1) && same(i - 1, j) {
                cost = cost.min(before[j - 1] + 1);
            }
            row[j + 1] = cost;
        }
        before = last;
        last = row;
    }
    last.get(b.len()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_kind_of_slip_once() {
        let distance = |a: &str, b: &str| distance(a.as_bytes(), b.as_bytes());
        assert_eq!(distance("seed", "seed"), Some(0));
        assert_eq!(distance("SEED", "seed"), Some(0));
        assert_eq!(distance("sed", "seed"), Some(1));
        assert_eq!(distance("seeed", "seed"), Some(1));
        assert_eq!(distance("sead", "seed"), Some(1));
        assert_eq!(distance("esed", "seed"), Some(1));
        assert_eq!(distance("kitten", "sitting"), Some(3));
        assert_eq!(distance("", "seed"), None);
    }

    #[test]
    fn far_and_long_words_have_no_neighbour() {
        assert_eq!(nearest("x", ["seed"]), None);
        assert_eq!(nearest("an-extraordinarily-long-parameter", ["seed"]), None);
        // The nearest of all counts, not the first that is near.
        assert_eq!(nearest("helo", ["halt", "hello"]), Some("hello"));
        assert_eq!(nearest("gest", ["seed", "guest", "test"]), Some("guest"));
    }
}
