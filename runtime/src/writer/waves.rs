//! The order of writing within a group: predecessors first, and as few requests as the longest thread is long.
//!
//! A comment carries the event id of the comment before it, which exists only once that one is acknowledged. Sending comments one by
//! one would cost a request each. So a group is cut into waves: wave 0 holds what waits for nothing in the group, wave *n* what waits for wave *n-1*. A page
//! of a hundred threads takes as many requests as its longest thread has turns.

use std::collections::HashMap;

/// The waves of a group, as indices into it. `nodes` gives each member's id and the ids of its predecessors. Predecessors outside the
/// group do not count. A circle, which only a faulty or hostile component makes, is broken by writing its members in the last wave.
pub(super) fn waves<'a>(nodes: &[(&'a str, &'a [String])]) -> Vec<Vec<usize>> {
    let position: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .map(|(index, (id, _))| (*id, index))
        .collect();
    let mut waiting_for = vec![0_usize; nodes.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, (_, predecessors)) in nodes.iter().enumerate() {
        for predecessor in *predecessors {
            if let Some(&before) = position.get(predecessor.as_str())
                && before != index
            {
                waiting_for[index] += 1;
                followers[before].push(index);
            }
        }
    }
    let mut result = Vec::new();
    let mut placed = vec![false; nodes.len()];
    let mut current: Vec<usize> = (0..nodes.len())
        .filter(|&index| waiting_for[index] == 0)
        .collect();
    while !current.is_empty() {
        let mut next = Vec::new();
        for &index in &current {
            placed[index] = true;
            for &follower in &followers[index] {
                waiting_for[follower] -= 1;
                if waiting_for[follower] == 0 {
                    next.push(follower);
                }
            }
        }
        next.sort_unstable();
        result.push(std::mem::replace(&mut current, next));
    }
    let circle: Vec<usize> = (0..nodes.len()).filter(|&index| !placed[index]).collect();
    if !circle.is_empty() {
        result.push(circle);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_page_takes_as_many_waves_as_its_longest_thread() {
        let none = ids(&[]);
        let (on_mr, on_a, on_b) = (ids(&["mr"]), ids(&["a"]), ids(&["b"]));
        let nodes = [
            ("mr", none.as_slice()),
            ("a", &on_mr),
            ("x", &on_mr),
            ("b", &on_a),
            ("c", &on_b),
        ];
        assert_eq!(waves(&nodes), [vec![0], vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn a_circle_does_not_hang_and_loses_nothing() {
        let (on_a, on_b) = (ids(&["a"]), ids(&["b"]));
        let own = ids(&["self"]);
        let nodes = [("a", on_b.as_slice()), ("b", &on_a), ("self", &own)];
        assert_eq!(waves(&nodes), [vec![2], vec![0, 1]]);
    }
}
