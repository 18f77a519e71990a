//! A set of numbers, one bit each, that grows to the largest of them.

#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Adds `number`; says whether it was new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }

    /// The numbers in `self` that are not in `other`, ascending.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word & !other.0.get(i).copied().unwrap_or(0);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(i as u64 * 64 + u64::from(bit))
            })
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    fn place(number: u64) -> (usize, u64) {
        ((number / 64) as usize, 1 << (number % 64))
    }
}
