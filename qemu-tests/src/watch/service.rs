//! Services, as init reports them.

use std::collections::BTreeMap;

use slipform_init::contract::event::ServiceState;

/// More services than an image can have are not kept.
const MAX_SERVICES: usize = 1000;

/// All services by name.
#[derive(Debug, Default)]
pub(crate) struct Services {
    states: BTreeMap<String, State>,
}

#[derive(Debug)]
struct State {
    state: ServiceState,
    detail: String,
    was_ready: bool,
    restarts: u32,
}

impl Services {
    /// Notes a new state; true if the service just failed.
    pub(crate) fn change(&mut self, name: &str, state: ServiceState, detail: &str) -> bool {
        if self.states.len() >= MAX_SERVICES && !self.states.contains_key(name) {
            return false;
        }
        let entry = self.states.entry(name.to_owned()).or_insert_with(|| State {
            state,
            detail: String::new(),
            was_ready: false,
            restarts: 0,
        });
        entry.state = state;
        entry.detail = detail.to_owned();
        entry.was_ready |= state == ServiceState::Ready;
        entry.restarts += u32::from(state == ServiceState::Backoff);
        state == ServiceState::Failed
    }

    /// The first that is in the failed state.
    pub(crate) fn failed(&self) -> Option<&String> {
        let failed = |state: &State| state.state == ServiceState::Failed;
        self.states
            .iter()
            .find(|(_, state)| failed(state))
            .map(|(name, _)| name)
    }

    /// The first that was never ready, one that runs before one that only waits, with its state for people.
    pub(crate) fn unready(&self) -> Option<(&String, String)> {
        let unready = || {
            self.states
                .iter()
                .filter(|(_, state)| !state.was_ready && state.state != ServiceState::Stopped)
        };
        let (name, state) = unready()
            .find(|(_, state)| state.state != ServiceState::Waiting)
            .or_else(|| unready().next())?;
        let text = match (state_name(state.state), state.detail.as_str()) {
            (name, "") => name.to_owned(),
            (name, detail) => format!("{name}: {detail}"),
        };
        Some((name, text))
    }

    /// The state of one, and what init said of it; none that was never heard of.
    pub(crate) fn state(&self, name: &str) -> Option<(ServiceState, &str)> {
        let state = self.states.get(name)?;
        Some((state.state, &state.detail))
    }

    /// For the verdict: how many there are, and which had to be started again.
    pub(crate) fn summary(&self) -> String {
        let count = self.states.len();
        let mut text = match count {
            1 => "1 service".to_owned(),
            _ => format!("{count} services"),
        };
        for (name, state) in self.states.iter().filter(|(_, state)| state.restarts > 0) {
            text.push_str(&format!(", {name} started again {} times", state.restarts));
        }
        text
    }
}

pub(super) fn state_name(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Started => "started",
        ServiceState::Ready => "ready",
        ServiceState::Exited => "exited",
        ServiceState::Backoff => "in a pause before its next start",
        ServiceState::Failed => "failed",
        ServiceState::Stopped => "stopped",
    }
}
