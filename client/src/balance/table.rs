//! Two ways to draw from weights in constant or logarithmic time: [`Alias`] for random draws, [`Steps`] for turns.

/// Walker's alias table in Vose's form: one random word, one look, one comparison.
#[derive(Debug)]
pub(super) struct Alias {
    /// Below the threshold the slot itself, otherwise its alias.
    slots: Box<[(u32, u32)]>,
}

/// Cumulated weights: where a fraction of the whole lies.
#[derive(Debug)]
pub(super) struct Steps {
    /// Upper end of each share; the last one is 1.
    ends: Box<[f64]>,
}

/// `count * fraction`, where the fraction is given as 32 bits. `count` is below 2^32.
pub(super) fn scale(word: u32, count: usize) -> usize {
    ((u64::from(word) * count as u64) >> 32) as usize
}

impl Alias {
    /// The table of weights that are above 0; at least one.
    pub(super) fn new(weights: &[f64]) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut rest: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut slots: Vec<_> = (0..weights.len()).map(|at| (u32::MAX, at as u32)).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            (0..rest.len()).partition(|at| rest[*at] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            slots[less] = ((rest[less] * 4_294_967_296.0) as u32, more as u32);
            rest[more] -= 1.0 - rest[less];
            if rest[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self { slots: slots.into() }
    }

    /// The slot for a random word: the upper half chooses, the lower half decides.
    pub(super) fn draw(&self, word: u64) -> usize {
        let at = scale((word >> 32) as u32, self.slots.len());
        let (threshold, alias) = self.slots[at];
        if word as u32 <= threshold { at } else { alias as usize }
    }
}

impl Steps {
    /// Of weights that are above 0; at least one.
    pub(super) fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let ends = weights.iter().map(|weight| {
            sum += weight / total;
            sum
        });
        Self { ends: ends.collect() }
    }

    /// The share in which a fraction (0 to 1) lies.
    pub(super) fn at(&self, fraction: f64) -> usize {
        self.ends.partition_point(|end| *end <= fraction).min(self.ends.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Rolls;

    #[test]
    fn an_alias_table_draws_in_proportion() {
        let weights = [1.0, 2.0, 3.0, 10.0, 0.5];
        let (table, rolls) = (Alias::new(&weights), Rolls::new(1));
        let mut drawn = [0_u32; 5];
        for _ in 0..200_000 {
            drawn[table.draw(rolls.next())] += 1;
        }
        for (count, weight) in drawn.iter().zip(weights) {
            let expected = 200_000.0 * weight / 16.5;
            // Four standard deviations of a binomial.
            let margin = 4.0 * (expected * (1.0 - weight / 16.5)).sqrt();
            assert!((f64::from(*count) - expected).abs() < margin, "{drawn:?}");
        }
    }

    #[test]
    fn a_single_weight_and_extreme_weights_are_drawn() {
        let rolls = Rolls::new(2);
        assert_eq!(Alias::new(&[7.0]).draw(rolls.next()), 0);
        let table = Alias::new(&[1e-9, 65_535.0]);
        assert!((0..10_000).all(|_| table.draw(rolls.next()) == 1));
    }

    #[test]
    fn steps_cover_the_whole_without_gaps() {
        let steps = Steps::new(&[1.0, 1.0, 2.0]);
        for (fraction, at) in [(0.0, 0), (0.249, 0), (0.25, 1), (0.5, 2), (0.999, 2), (1.0, 2)] {
            assert_eq!(steps.at(fraction), at, "{fraction}");
        }
    }
}
