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
    /// As many as lists are in one another, from the first value on.
    sizes: Sizes,
    has_values: bool,
    leaves: usize,
}

impl Outline {
    pub(super) fn sizes(&self) -> &[i64] {
        &self.sizes
    }

    /// Reads one value. `leaf` reads what is no list, and says whether it could. If this could not, the scanner has not moved.
    // The place in the text is kept in a register: a local scanner, and one call of `leaf`, so that it is inlined.
    #[inline(never)]
    pub(super) fn walk<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        max_leaves: usize,
        mut leaf: impl FnMut(&mut Scanner<'a>) -> bool,
    ) -> Result<(), Stop> {
        if !self.has_values {
            self.sizes.resize(opening_brackets(scanner), OPEN);
            self.has_values = true;
        }
        if self.sizes.len() > MAX_RANK {
            return Err(Stop::Misfit);
        }
        let mut text = scanner.clone();
        // Elements so far of each list that is open, but for those that have leaves.
        let mut counts: SmallVec<[i64; 8]> = SmallVec::new();
        let innermost = self.sizes.len().checked_sub(1);
        loop {
            while counts.len() < innermost.unwrap_or(0) {
                open(&mut text)?;
                counts.push(0);
            }
            // All lists of leaves that follow one another.
            let mut lists = 0;
            loop {
                let room = max_leaves - self.leaves;
                let mut read = 0;
                let mut ends = innermost.is_some() && {
                    open(&mut text)?;
                    text.peek() == b']'
                };
                while !ends {
                    if read == room {
                        return Err(Stop::TooMany);
                    }
                    if !leaf(&mut text) {
                        return Err(Stop::Misfit);
                    }
                    read += 1;
                    ends = innermost.is_none() || !text.comma();
                }
                self.leaves += read;
                let Some(level) = innermost else {
                    *scanner = text;
                    return Ok(());
                };
                self.close(&mut text, level, read as i64)?;
                lists += 1;
                if level == 0 || !text.comma() {
                    break;
                }
            }
            if let Some(count) = counts.last_mut() {
                *count += lists;
            }
            loop {
                let Some(count) = counts.pop() else {
                    *scanner = text;
                    return Ok(());
                };
                self.close(&mut text, counts.len(), count)?;
                let Some(outer) = counts.last_mut() else { continue };
                *outer += 1;
                if text.comma() {
                    break;
                }
            }
        }
    }

    /// A list of so many elements ends at `level`.
    #[inline]
    fn close(&mut self, text: &mut Scanner<'_>, level: usize, count: i64) -> Result<(), Stop> {
        if !text.take(b']') {
            return Err(Stop::Misfit);
        }
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

/// Steps into a list.
#[inline]
fn open(text: &mut Scanner<'_>) -> Result<(), Stop> {
    if !text.take(b'[') {
        return Err(Stop::Misfit);
    }
    text.whitespace();
    Ok(())
}

/// How many lists begin here, each with the next one, which is how deep all leaves are if they are all as deep as the first;
/// no more are counted than are one too many.
fn opening_brackets(scanner: &Scanner<'_>) -> usize {
    let mut text = scanner.clone();
    (0..=MAX_RANK).take_while(|_| open(&mut text).is_ok()).count()
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
