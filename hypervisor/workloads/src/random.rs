//! Random numbers that need no state: a number is a function of what it is for.

/// Mixes two numbers into one that looks random: the output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014) over their sum in steps of the golden ratio.
pub const fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound`, from a random one: the upper half of their product (Lemire, 2019, without the correction, which matters only for
/// bounds near 2^64). 0 for a bound of 0.
pub(crate) const fn below(random: u64, bound: u64) -> u64 {
    ((random as u128 * bound as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_the_bound() {
        let mut seen = [0_u32; 10];
        for number in 0..10_000 {
            seen[below(mix(7, number), 10) as usize] += 1;
        }
        // 1000 each is expected; five standard deviations of a binomial are 150.
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!(below(u64::MAX, 0), 0);
    }
}
