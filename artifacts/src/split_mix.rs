//! SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), the generator of all seeded random numbers.

/// The amount that is added to the generator's state for each number: 2^64 divided by the golden ratio.
pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The generator: a counter that grows by [`GAMMA`], and [`mix`] of it.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts from a state.
    #[inline]
    pub fn new(state: u64) -> Self {
        Self(state)
    }

    /// The next 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }
}

/// Mixes the bits of a number, so that each bit of the result depends on all of them. No two numbers have one result.
#[inline]
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // The first numbers of the reference implementation (splitmix64.c by Vigna) for the seed 1234567.
        let mut generator = SplitMix64::new(1_234_567);
        let found = [(); 3].map(|()| generator.bits());
        assert_eq!(found, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
