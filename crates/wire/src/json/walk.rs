//! The fast walk: one pass over a value that finds out its shape and hands each leaf over.

use servable_core::tensor::MAX_RANK;
use smallvec::SmallVec;

use crate::json::scan::Scanner;

/// Sizes of dimensions, outermost first.
pub(super) type Sizes = SmallVec<[i64; 4]>;

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Something does not fit. Only the slow walk knows how to say what.
    Misfit,
    /// There are more leaves than a tensor may have.
    TooMany,
}

/// The size of a dimension whose first list has not ended yet.
const OPEN: i64 = -1;

/// The shape that the values so far agree on; every further value must agree too.
#[derive(Debug, Default)]
pub(super) struct Outline {
    sizes: Sizes,
    /// Known from the first leaf, or the first list without elements, on.
    rank: Option<usize>,
    leaves: usize,
}

impl Outline {
    pub(super) fn sizes(&self) -> &[i64] {
        &self.sizes
    }

    /// Reads one value. `leaf` reads what is no list, and says whether it could. If this could not, the scanner has not moved.
    // The place in the text is kept in a register: a local scanner, and one call of `leaf`, so that it is inlined.
    #[inline]
    pub(super) fn walk<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        max_leaves: usize,
        mut leaf: impl FnMut(&mut Scanner<'a>) -> bool,
    ) -> Result<(), Stop> {
        let mut text = scanner.clone();
        // Elements so far of each list that is open.
        let mut counts: SmallVec<[i64; 8]> = SmallVec::new();
        loop {
            let level = counts.len();
            if text.peek() == b'[' {
                self.enter(level)?;
                text.advance(1);
                text.whitespace();
                if !text.take(b']') {
                    counts.push(0);
                    continue;
                }
                self.has_rank(level + 1)?;
                self.leave(level, 0)?;
            } else {
                self.has_rank(level)?;
                let mut read = 0;
                loop {
                    if self.leaves + read == max_leaves {
                        return Err(Stop::TooMany);
                    }
                    if !leaf(&mut text) {
                        return Err(Stop::Misfit);
                    }
                    read += 1;
                    if level == 0 || !text.comma() {
                        break;
                    }
                }
                self.leaves += read;
                if let Some(count) = counts.last_mut() {
                    *count += read as i64 - 1;
                }
            }
            loop {
                let Some(count) = counts.last_mut() else {
                    *scanner = text;
                    return Ok(());
                };
                *count += 1;
                if text.comma() {
                    break;
                }
                if !text.take(b']') {
                    return Err(Stop::Misfit);
                }
                let count = *count;
                counts.truncate(counts.len() - 1);
                self.leave(counts.len(), count)?;
            }
        }
    }

    /// All leaves, and all lists without elements, are at the same level.
    fn has_rank(&mut self, rank: usize) -> Result<(), Stop> {
        if *self.rank.get_or_insert(rank) == rank { Ok(()) } else { Err(Stop::Misfit) }
    }

    /// A list opens at `level`.
    fn enter(&mut self, level: usize) -> Result<(), Stop> {
        match self.rank {
            Some(rank) if level >= rank => Err(Stop::Misfit),
            None if level == MAX_RANK => Err(Stop::Misfit),
            None => {
                self.sizes.push(OPEN);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// A list closes at `level`.
    fn leave(&mut self, level: usize, count: i64) -> Result<(), Stop> {
        match self.sizes.get_mut(level) {
            Some(size) if *size == OPEN => {
                *size = count;
                Ok(())
            }
            Some(size) if *size == count => Ok(()),
            _ => Err(Stop::Misfit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Result<Vec<i64>, Stop> {
        let mut outline = Outline::default();
        let mut scanner = Scanner::new(text.as_bytes());
        outline.walk(&mut scanner, 10, |scanner| scanner.value(0).is_ok())?;
        assert!(scanner.rest().is_empty(), "{text}");
        Ok(outline.sizes().to_vec())
    }

    #[test]
    fn the_shape_follows_from_the_nesting() {
        for (text, wanted) in [
            ("1", Ok(vec![])),
            ("[]", Ok(vec![0])),
            ("[[],[]]", Ok(vec![2, 0])),
            ("[[[]]]", Ok(vec![1, 1, 0])),
            ("[ [1 , 2 ],\n[3,4], [5,6]]", Ok(vec![3, 2])),
            ("[[[1],[2]],[[3],[4]]]", Ok(vec![2, 2, 1])),
            ("[[1,2],[3]]", Err(Stop::Misfit)),
            ("[[1],[2,3]]", Err(Stop::Misfit)),
            ("[1,[2]]", Err(Stop::Misfit)),
            ("[[1],2]", Err(Stop::Misfit)),
            ("[[],[1]]", Err(Stop::Misfit)),
            ("[[1],[]]", Err(Stop::Misfit)),
            ("[[[]],[]]", Err(Stop::Misfit)),
            ("[1,2,3,4,5,6,7,8,9,10,11]", Err(Stop::TooMany)),
        ] {
            assert_eq!(shape(text), wanted, "{text}");
        }
        let deep = |rank| "[".repeat(rank) + &"]".repeat(rank);
        assert_eq!(shape(&deep(254)).map(|sizes| sizes.len()), Ok(254));
        assert_eq!(shape(&deep(255)), Err(Stop::Misfit));
    }
}
