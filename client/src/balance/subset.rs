//! Subsetting by rendezvous: each caller keeps connections to k endpoints of its own instead of to all (gRPC proposal
//! A68). When an endpoint comes or goes, a caller changes at most one of its k.

use crate::dice::mix;

/// Indices of the `size` members that this caller keeps, in order. All where there are no more than that.
pub(super) fn choose(hashes: &[u64], caller: u64, size: usize) -> Vec<usize> {
    let mut ranked: Vec<_> =
        hashes.iter().enumerate().map(|(at, hash)| (mix(hash ^ mix(caller)), at)).collect();
    if size < ranked.len() {
        ranked.select_nth_unstable(size);
        ranked.truncate(size);
    }
    let mut chosen: Vec<_> = ranked.into_iter().map(|(_, at)| at).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn hashes(count: u64) -> Vec<u64> {
        (0..count).map(|id| mix(id + 77)).collect()
    }

    #[test]
    fn callers_spread_evenly_over_endpoints() {
        let hashes = hashes(100);
        let mut chosen = [0.0_f64; 100];
        for caller in 0..2_000 {
            let own = choose(&hashes, mix(caller), 20);
            assert_eq!(own.len(), 20);
            own.iter().for_each(|at| chosen[*at] += 1.0);
        }
        // Each is wanted by 400 of 2,000 callers; a binomial deviates by 17.9, and this is 4.5 times that.
        assert!(chosen.iter().all(|count| (count - 400.0).abs() < 80.0), "{chosen:?}");
    }

    #[test]
    fn a_change_of_one_endpoint_changes_at_most_one_choice() {
        let all = hashes(50);
        for caller in 0..200 {
            let pick = |hashes: &[u64]| -> BTreeSet<u64> {
                choose(hashes, mix(caller), 12).into_iter().map(|at| hashes[at]).collect()
            };
            let before = pick(&all);
            for gone in [0, 25, 49] {
                let mut fewer = all.clone();
                fewer.remove(gone);
                assert!(before.difference(&pick(&fewer)).count() <= 1);
            }
        }
    }

    #[test]
    fn a_small_service_is_kept_whole() {
        assert_eq!(choose(&hashes(3), 9, 12), [0, 1, 2]);
    }
}
