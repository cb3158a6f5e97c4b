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

    /// Reads one value. `leaf` reads what is no list, and says whether it could.
    #[inline]
    pub(super) fn walk<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        max_leaves: usize,
        mut leaf: impl FnMut(&mut Scanner<'a>) -> bool,
    ) -> Result<(), Stop> {
        // Elements so far of each list around the current one, and of the current one.
        let mut outer: SmallVec<[i64; 8]> = SmallVec::new();
        let mut inner: Option<i64> = None;
        'value: loop {
            let level = outer.len() + usize::from(inner.is_some());
            if scanner.peek() == b'[' {
                self.enter(level)?;
                scanner.advance(1);
                scanner.whitespace();
                if scanner.peek() != b']' {
                    if let Some(count) = inner.replace(0) {
                        outer.push(count);
                    }
                    continue 'value;
                }
                scanner.advance(1);
                self.leave(level, 0)?;
                if *self.rank.get_or_insert(level + 1) != level + 1 {
                    return Err(Stop::Misfit);
                }
            } else {
                if self.leaves == max_leaves {
                    return Err(Stop::TooMany);
                }
                if *self.rank.get_or_insert(level) != level || !leaf(scanner) {
                    return Err(Stop::Misfit);
                }
                self.leaves += 1;
            }
            loop {
                let Some(count) = &mut inner else {
                    return Ok(());
                };
                *count += 1;
                scanner.whitespace();
                if scanner.take(b',') {
                    scanner.whitespace();
                    continue 'value;
                }
                if !scanner.take(b']') {
                    return Err(Stop::Misfit);
                }
                self.leave(outer.len(), *count)?;
                inner = outer.pop();
            }
        }
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
