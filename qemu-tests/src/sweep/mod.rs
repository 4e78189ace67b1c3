//! Sweeps: many boots of one artifact, each with one thing changed.
//!
//! ```text
//! tamper     one byte in each region of the disk   -> repaired | refused | detected at read
//!                                                     | harmless | unprotected | missed
//! power_cut  the plug is pulled at chosen moments  -> back and healthy, or not
//! condition  another machine than the board's      -> as healthy as on the board, or not
//! ```
//!
//! What is chosen by chance comes from one printed seed (`seed`). The artifact is
//! never written to: each machine writes to an overlay of its own.
//! `region` and `classify` are pure; `trial` alone starts machines.

mod classify;
mod condition;
mod error;
mod ext4;
mod fat;
mod gpt;
mod pe;
mod power;
mod reads;
mod region;
mod seed;
mod source;
mod tamper;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_disk;
mod trial;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::accel::Accel;
use crate::plan::{Emulator, Plan};

pub use classify::Class;
pub use condition::{Condition, ConditionReport, ConditionVerdict, conditions};
pub use error::SweepError;
pub use power::{PowerCut, PowerCutReport, power_cuts};
pub use region::Region;
pub use source::DiskBytes;
pub use tamper::{Cell, TamperReport, tamper};

/// Version of the sweeps' reports.
pub const SWEEP_SCHEMA: u32 = 1;

/// What all sweeps share.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// A plan that was green; evidence goes into folders below its own.
    pub plan: &'a Plan,
    /// The emulator.
    pub emulator: &'a Emulator,
    /// How it runs.
    pub accel: Accel,
    /// Chooses whatever is chosen by chance.
    pub seed: u64,
    /// Machines at a time.
    pub jobs: usize,
}

/// Does `work` for each of `items`, `jobs` at a time; `told` hears of each that is
/// done, in the order of time. The first error ends it.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(usize, &T) -> Result<R, SweepError> + Sync,
    mut told: impl FnMut(usize, &R),
) -> Result<Vec<R>, SweepError> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<SweepError>> = Mutex::new(None);
    let mut done: Vec<Option<R>> = items.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            let (sender, next, failed, work) = (sender.clone(), &next, &failed, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    match work(index, item) {
                        Ok(result) => drop(sender.send((index, result))),
                        Err(error) => {
                            // Nobody begins anything more.
                            next.store(items.len(), Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(error);
                            return;
                        }
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in results {
            told(index, &result);
            if let Some(slot) = done.get_mut(index) {
                *slot = Some(result);
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done.into_iter().flatten().collect()),
    }
}

/// A table for people: columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!(" {cell:width$} "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stay_in_order_and_the_first_error_ends_the_work() {
        let items: Vec<usize> = (0..20).collect();
        let mut told = Vec::new();
        let done = in_parallel(&items, 3, |_, n| Ok(n * 2), |index, _| told.push(index));
        assert_eq!(done.ok(), Some((0..20).map(|n| n * 2).collect()));
        told.sort_unstable();
        assert_eq!(told, items);
        let failed = in_parallel(
            &items,
            2,
            |_, &n| {
                if n == 3 {
                    Err(SweepError::Region("x".into()))
                } else {
                    Ok(n)
                }
            },
            |_, _| {},
        );
        assert!(matches!(failed, Err(SweepError::Region(_))));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".into(), "bb".into()],
            vec!["ccc".into(), "d".into()],
        ];
        assert_eq!(table(&rows), "  a    bb\n  ccc  d\n");
    }
}
