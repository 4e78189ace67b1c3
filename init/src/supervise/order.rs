//! Who waits for whom. The builder has checked `after` already; a machine that got
//! a broken list all the same starts what can be started and says why the rest cannot.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The graph of `after`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Names, for messages.
    pub(crate) names: Vec<String>,
    /// For each service: the indexes of those that must be ready first.
    pub(crate) after: Vec<Vec<usize>>,
    /// Services that can never start, and why.
    pub(crate) broken: BTreeMap<usize, String>,
}

/// Resolves names; `services` are name and `after` of each.
pub(crate) fn resolve(services: &[(&str, &[String])]) -> Order {
    let mut order = Order::default();
    let mut index = BTreeMap::new();
    for (number, (name, _)) in services.iter().enumerate() {
        // Two of one name would share a cgroup and a notify socket: the first has it.
        if *index.entry(*name).or_insert(number) != number {
            order.broken.insert(
                number,
                format!("name `{name}`: taken by an earlier service; names must be unique"),
            );
        }
    }
    for (number, (name, after)) in services.iter().enumerate() {
        order.names.push((*name).to_owned());
        let mut known: Vec<usize> = Vec::new();
        for other in *after {
            match index.get(other.as_str()) {
                Some(&number) if !known.contains(&number) => known.push(number),
                Some(_) => {}
                None => {
                    order
                        .broken
                        .entry(number)
                        .or_insert_with(|| format!("after `{other}`: there is no such service"));
                }
            }
        }
        order.after.push(known);
    }
    mark_cycles(services, &mut order);
    order
}

/// Takes away, again and again, whoever waits for nobody that is left (Kahn); what
/// stays is in a cycle or behind one.
fn mark_cycles(services: &[(&str, &[String])], order: &mut Order) {
    let mut placed = vec![false; services.len()];
    loop {
        let free: Vec<usize> = (0..services.len())
            .filter(|&number| {
                !placed[number] && order.after[number].iter().all(|&other| placed[other])
            })
            .collect();
        if free.is_empty() {
            break;
        }
        for number in free {
            placed[number] = true;
        }
    }
    for number in (0..services.len()).filter(|&number| !placed[number]) {
        if let Some(path) = cycle_through(number, order) {
            let names: Vec<&str> = path.iter().map(|&step| services[step].0).collect();
            let text = format!(
                "after: waits for itself ({}); break the cycle in slipform.toml",
                names.join(" after ")
            );
            order.broken.entry(number).or_insert(text);
        }
    }
}

/// The shortest way from `start` back to itself, if there is one.
fn cycle_through(start: usize, order: &Order) -> Option<Vec<usize>> {
    let mut from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut edge = vec![start];
    while !edge.is_empty() {
        let mut next = Vec::new();
        for &number in &edge {
            for &other in &order.after[number] {
                if other == start {
                    let mut path = vec![number];
                    while let Some(&previous) = path.last().and_then(|last| from.get(last)) {
                        path.push(previous);
                    }
                    path.reverse();
                    path.push(start);
                    return Some(path);
                }
                if let Entry::Vacant(unseen) = from.entry(other) {
                    unseen.insert(number);
                    next.push(other);
                }
            }
        }
        edge = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(list: &[(&str, &[&str])]) -> Order {
        let owned: Vec<(&str, Vec<String>)> = list
            .iter()
            .map(|(name, after)| (*name, after.iter().map(ToString::to_string).collect()))
            .collect();
        let borrowed: Vec<(&str, &[String])> = owned
            .iter()
            .map(|(name, after)| (*name, after.as_slice()))
            .collect();
        resolve(&borrowed)
    }

    #[test]
    fn names_become_indexes_once() {
        let got = order(&[("a", &[]), ("b", &["a", "a"]), ("c", &["b", "a"])]);
        assert_eq!(got.after, [vec![], vec![0], vec![1, 0]]);
        assert!(got.broken.is_empty());
    }

    #[test]
    fn only_the_members_of_a_cycle_are_broken() {
        let got = order(&[
            ("a", &["c"]),
            ("b", &["a"]),
            ("c", &["b"]),
            ("d", &["a"]),
            ("e", &[]),
        ]);
        assert_eq!(got.broken.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            got.broken[&0],
            "after: waits for itself (a after c after b after a); break the cycle in slipform.toml"
        );
    }

    #[test]
    fn a_service_after_itself_is_a_cycle() {
        let got = order(&[("a", &["a"])]);
        assert_eq!(
            got.broken[&0],
            "after: waits for itself (a after a); break the cycle in slipform.toml"
        );
    }

    #[test]
    fn unknown_and_double_names_are_named() {
        let got = order(&[("a", &["x"]), ("b", &[]), ("b", &[])]);
        assert_eq!(got.broken[&0], "after `x`: there is no such service");
        assert!(got.broken[&2].contains("name `b`"));
        assert!(!got.broken.contains_key(&1));
    }
}
