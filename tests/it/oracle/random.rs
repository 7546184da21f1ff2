//! A seed → the same choices again.

/// A small generator (xorshift64*), so that a failing run is run again by its seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Seeds that are near give choices that are not.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let limit = list.len() as u64;
        &list[usize::try_from(self.below(limit)).unwrap()]
    }
}
