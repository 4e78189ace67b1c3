//! What a service says, line by line, as far as its allowance goes.

use slipform_init::contract::event::Event;
use slipform_init::contract::machine::{Ready, Service};

use super::logs::Allowance;
use super::notify::Message;
use crate::turn::Turn;

/// Says lines under a service's name, as far as its allowance goes.
pub(crate) struct Voice<'a, 'b> {
    name: &'a str,
    allowance: &'a mut Allowance,
    turn: &'a mut Turn<'b>,
    /// Text that means ready.
    wanted: Option<&'a str>,
    /// It was said.
    pub(crate) found: bool,
}

impl Voice<'_, '_> {
    /// One line; false if it was dropped.
    pub(crate) fn say(&mut self, stream: &str, line: String) -> bool {
        self.found |= self.wanted.is_some_and(|wanted| line.contains(wanted));
        self.say_lost(stream, false);
        let passes = self.allowance.take(self.turn.now, line.len());
        if passes {
            self.turn.report.event(Event::Log {
                service: self.name.to_owned(),
                stream: stream.to_owned(),
                line,
            });
        }
        passes
    }

    /// How many lines were lost, if it is time to say so.
    pub(crate) fn say_lost(&mut self, stream: &str, force: bool) {
        if let Some(lost) = self.allowance.lost(self.turn.now, force) {
            self.turn.report.dropped(self.name, lost);
            let line = format!("[slipform: {lost} lines dropped, the service writes too fast]");
            self.turn.report.event(Event::Log {
                service: self.name.to_owned(),
                stream: stream.to_owned(),
                line,
            });
        }
    }
}

/// The line for a message that does not count.
pub(crate) fn refusal(message: &Message) -> String {
    match message.sender {
        Some(sender) => {
            format!("[slipform: message of process {sender} ignored: it is none of this service's]")
        }
        None => "[slipform: message ignored: too long, or without a sender]".into(),
    }
}

/// The voice of `service` in this turn.
pub(crate) fn voice<'a, 'b>(
    service: &'a Service,
    allowance: &'a mut Allowance,
    turn: &'a mut Turn<'b>,
) -> Voice<'a, 'b> {
    let wanted = match &service.ready {
        Ready::Log(text) => Some(text.as_str()),
        _ => None,
    };
    Voice {
        name: &service.name,
        allowance,
        turn,
        wanted,
        found: false,
    }
}
