//! Store, emulator, and how many machines may run at once.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use slipform::base::Arch;
use slipform::base::progress::Quiet;
use slipform::pipeline::Settings;
use slipform_qemu_tests::{BootReport, Emulator, Plan};

use super::project::Project;

/// Never `auto`: a probe of `/dev/kvm` is no business of a test.
pub(crate) const ACCELERATOR: &str = "tcg";
/// Machines at once. Two keep two cores half busy: much of a test is waiting.
const MACHINES: u32 = 3;

static RUNNING: Mutex<u32> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// Room for one machine; taken before casting, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(());

/// Waits until there is room.
pub(crate) fn slot() -> Slot {
    let mut running = running();
    while *running >= MACHINES {
        running = FREED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    Slot(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        *running() -= 1;
        FREED.notify_one();
    }
}

fn running() -> MutexGuard<'static, u32> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pipeline over the ordinary store.
pub(crate) fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS
        .get_or_init(|| Settings::new(None, None, false, Arc::new(Quiet)).expect("the store opens"))
}

/// The locked emulator; any project's lock names the same.
pub(crate) fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(|| {
        let image = Project::shipped("hello").image();
        let mut emulator = settings()
            .emulator(&image, Arch::TOOLS, "locked")
            .expect("the locked emulator unpacks");
        // A test is no `slipform` command that could relay.
        emulator.relay = vec![
            env!("CARGO_BIN_EXE_metadata-relay").into(),
            slipform_qemu_tests::metadata::RELAY_WORD.into(),
        ];
        emulator
    })
}

/// Boots under TCG.
pub(crate) fn boot(plan: &Plan) -> BootReport {
    settings()
        .boot(plan, emulator(), ACCELERATOR)
        .expect("the harness can judge")
}

/// Folder of the end-to-end tests below cargo's target folder.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("boots")
}

/// Tests that take too long for every change.
pub(crate) fn is_nightly() -> bool {
    std::env::var_os("SLIPFORM_TESTS_NIGHTLY").is_some_and(|value| value == "1")
}
