//! How traffic is divided over tiers and zones: formulas over numbers, after Envoy's priority levels and zone aware
//! routing. Pure.

/// What a part of the capacity may take on beyond its share before traffic spills over.
const OVERPROVISIONING: f64 = 1.4;

/// Shares of the tiers, first one first, given the healthy fraction (0 to 1) of each. A tier takes everything until
/// fewer than 1/1.4 of it are left. The sum is 1, or 0 where nothing is left anywhere.
pub(super) fn tiers(healthy: &[f64]) -> Vec<f64> {
    let able: Vec<f64> = healthy.iter().map(|h| (h * OVERPROVISIONING).min(1.0)).collect();
    let total = able.iter().sum::<f64>().min(1.0);
    let mut left = 1.0;
    let share = able.iter().map(|able| {
        if total <= 0.0 {
            return 0.0;
        }
        // Where all tiers together cannot take everything, each takes more than it should, in proportion.
        let share = (able / total).min(left);
        left -= share;
        share
    });
    share.collect()
}

/// Shares of the zones, given the capacity that is left in each, the caller's own zone and the share of all callers
/// that are in it (`None` = callers are spread evenly over the zones). The own zone takes everything while 1.4 times
/// its share of the capacity is at least its share of the callers; what it cannot take goes to the others in
/// proportion to what they have to spare. The sum is 1 where there is capacity.
pub(super) fn zones(capacity: &[f64], own: usize, callers: Option<f64>) -> Vec<f64> {
    let count = capacity.len() as f64;
    let total: f64 = capacity.iter().sum();
    if total <= 0.0 {
        return vec![0.0; capacity.len()];
    }
    let callers = callers.unwrap_or(1.0 / count).clamp(0.0, 1.0);
    let share = |zone: usize| capacity[zone] / total;
    let local =
        if callers == 0.0 { 1.0 } else { (share(own) * OVERPROVISIONING / callers).min(1.0) };
    let local = if capacity[own] > 0.0 { local } else { 0.0 };
    let others: f64 = (0..capacity.len()).filter(|zone| *zone != own).map(share).sum();
    if others <= 0.0 {
        return (0..capacity.len()).map(|zone| f64::from(u8::from(zone == own))).collect();
    }
    // Callers elsewhere are taken to be spread evenly over the other zones.
    let used = (1.0 - callers) / (count - 1.0);
    let spare = |zone: usize| (share(zone) - used).max(0.0);
    let spares: f64 = (0..capacity.len()).filter(|zone| *zone != own).map(spare).sum();
    let of = |zone: usize| match zone {
        zone if zone == own => local,
        zone if spares > 0.0 => (1.0 - local) * spare(zone) / spares,
        zone => (1.0 - local) * share(zone) / others,
    };
    (0..capacity.len()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(given: &[f64], expected: &[f64]) {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
        assert!(given.len() == expected.len() && given.iter().zip(expected).all(near), "{given:?}");
    }

    #[test]
    fn a_tier_takes_everything_until_it_cannot() {
        close(&tiers(&[1.0, 1.0]), &[1.0, 0.0]);
        close(&tiers(&[0.72, 1.0]), &[1.0, 0.0]);
        close(&tiers(&[0.5, 1.0]), &[0.7, 0.3]);
        close(&tiers(&[0.25, 0.25, 1.0]), &[0.35, 0.35, 0.3]);
        close(&tiers(&[0.0, 1.0]), &[0.0, 1.0]);
        close(&tiers(&[0.25, 0.25]), &[0.5, 0.5]);
        close(&tiers(&[0.0, 0.0]), &[0.0, 0.0]);
        close(&tiers(&[]), &[]);
    }

    #[test]
    fn the_own_zone_takes_everything_while_it_can() {
        close(&zones(&[1.0, 1.0, 1.0], 0, None), &[1.0, 0.0, 0.0]);
        close(&zones(&[3.0, 1.0, 1.0], 0, None), &[1.0, 0.0, 0.0]);
        close(&zones(&[1.0], 0, None), &[1.0]);
        close(&zones(&[5.0, 5.0], 1, Some(0.5)), &[0.0, 1.0]);
    }

    #[test]
    fn what_the_own_zone_cannot_take_goes_where_there_is_room() {
        // A sixth of the capacity serves a third of the callers: 0.7 stays, the rest goes to the zone with room.
        close(&zones(&[1.0, 2.0, 3.0], 0, None), &[0.7, 0.0, 0.3]);
        // Half of the callers and a fifth of the capacity.
        close(&zones(&[2.0, 4.0, 4.0], 0, Some(0.5)), &[0.56, 0.22, 0.22]);
        close(&zones(&[0.0, 2.0, 4.0], 0, None), &[0.0, 0.0, 1.0]);
        close(&zones(&[0.0, 1.0, 1.0], 0, None), &[0.0, 0.5, 0.5]);
    }

    #[test]
    fn nothing_left_is_no_share_and_no_nonsense() {
        close(&zones(&[0.0, 0.0], 0, None), &[0.0, 0.0]);
        close(&zones(&[0.0, 1.0], 0, Some(0.0)), &[0.0, 1.0]);
        close(&zones(&[1.0, 0.0], 0, Some(1.0)), &[1.0, 0.0]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..proptest::test_runner::Config::default()
        })]

        #[test]
        fn shares_are_a_whole(
            capacity in proptest::collection::vec(0.0..100.0_f64, 1..8),
            own in 0..8_usize,
            callers in proptest::option::of(0.0..1.0_f64),
        ) {
            let shares = zones(&capacity, own % capacity.len(), callers);
            let sum: f64 = shares.iter().sum();
            let whole = if capacity.iter().sum::<f64>() > 0.0 { 1.0 } else { 0.0 };
            proptest::prop_assert!((sum - whole).abs() < 1e-9 && shares.iter().all(|s| *s >= 0.0));
        }

        #[test]
        fn tiers_share_a_whole(healthy in proptest::collection::vec(0.0..1.0_f64, 1..6)) {
            let shares = tiers(&healthy);
            let sum: f64 = shares.iter().sum();
            let whole = if healthy.iter().sum::<f64>() > 0.0 { 1.0 } else { 0.0 };
            proptest::prop_assert!((sum - whole).abs() < 1e-9 && shares.iter().all(|s| *s >= 0.0));
        }
    }
}
